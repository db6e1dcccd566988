// The Vercel AI SDK on a real model, over a provider of its own or over an OpenAI-compatible one: texts whole and streamed,
// an object whole and streamed, a call, vectors and an error. Prints what it found as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";

const [kind] = process.argv.slice(2);
const { EMBED, MODEL, QUESTION, SERVER, TOOLS } = process.env;
const providers = {
  ollama: () => createOllama({ baseURL: `${SERVER}/api` }),
  openai: () =>
    createOpenAICompatible({
      name: "ollamapy",
      baseURL: `${SERVER}/v1`,
      includeUsage: true,
      supportsStructuredOutputs: true,
    }),
};
const provider = providers[kind]();
const found = { warnings: [] };

/** What one call and its stream have in common. Ollama's own provider has to be told Ollama's own options. */
const settings = (more, limit = 120) => ({
  model: provider(MODEL),
  temperature: 0,
  maxOutputTokens: limit,
  providerOptions: { ollama: { options: { temperature: 0, num_predict: limit } } },
  maxRetries: 0,
  onError: ({ error }) => {
    throw error;
  },
  ...more,
});

/** Everything a stream has brought, and how many pieces of text it came in. */
async function streamed(options) {
  const result = streamText(options);
  let pieces = 0;
  for await (const _ of result.textStream) pieces += 1;
  found.warnings.push(...(await result.warnings));
  return {
    pieces,
    text: await result.text,
    reason: await result.finishReason,
    tokens: (await result.usage).outputTokens,
    output: options.output && (await result.output),
    calls: (await result.toolCalls).map(({ toolName, input }) => ({ toolName, input })),
  };
}

async function whole(options) {
  const result = await generateText(options);
  found.warnings.push(...result.warnings);
  return {
    text: result.text,
    reason: result.finishReason,
    tokens: result.usage.outputTokens,
    output: options.output && result.output,
    calls: result.toolCalls.map(({ toolName, input }) => ({ toolName, input })),
  };
}

async function both(options) {
  return { whole: await whole(options), streamed: await streamed(options) };
}

found.text = await both(settings({ prompt: QUESTION }));
found.cut = await both(settings({ prompt: QUESTION }, 3));

const schema = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(150) });
found.object = await both(settings({ prompt: "Ada is 36. Answer in JSON.", output: Output.object({ schema }) }));

const weather = tool({ description: "Weather of a city", inputSchema: z.object({ city: z.string().max(20) }) });
const toolChoice = kind === "openai" ? "required" : "auto"; // Ollama's own API cannot force a call
found.call = await both(settings({ model: provider(TOOLS), prompt: QUESTION, tools: { weather }, toolChoice }));

const vectors = await embedMany({ model: provider.textEmbeddingModel(EMBED), values: ["Hello", "Goodbye"] });
found.lengths = vectors.embeddings.map((vector) => Math.hypot(...vector));

try {
  await generateText(settings({ model: provider("missing"), prompt: QUESTION }));
} catch (error) {
  found.error = [error.name, error.statusCode];
}
console.log(JSON.stringify(found));
