// The tool loop of the Vercel AI SDK, streamed or not, over a provider of its own or over an OpenAI-compatible one.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";
import { getWeather, model, question, report, server } from "./weather.mjs";

const [provider, mode] = process.argv.slice(2);
const providers = {
  ollama: () => createOllama({ baseURL: `${server}/api` }),
  openai: () => createOpenAICompatible({ name: "ollamapy", baseURL: `${server}/v1` }),
};
const places = [];
const options = {
  model: providers[provider]()(model),
  prompt: question,
  stopWhen: stepCountIs(5),
  onError: ({ error }) => {
    throw error;
  },
  tools: {
    get_weather: tool({
      description: "Weather of a place",
      inputSchema: z.object({ place: z.string(), unit: z.enum(["celsius", "fahrenheit"]) }),
      execute: async (call) => {
        places.push(call.place);
        return getWeather(call);
      },
    }),
  },
};
if (mode === "stream") {
  const result = streamText(options);
  await result.consumeStream();
  report(places, await result.text);
} else {
  report(places, (await generateText(options)).text);
}
