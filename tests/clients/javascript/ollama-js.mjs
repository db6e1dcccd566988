// The tool loop of ollama-js, streamed.
import { Ollama } from "ollama";
import { getWeather, model, question, report, server } from "./weather.mjs";

const client = new Ollama({ host: server });
const parameters = {
  type: "object",
  properties: { place: { type: "string" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
  required: ["place", "unit"],
};
const tools = [{ type: "function", function: { name: "get_weather", description: "Weather of a place", parameters } }];

async function turn(messages) {
  const message = { role: "assistant", content: "", thinking: "", tool_calls: [] };
  for await (const part of await client.chat({ model, messages, tools, stream: true })) {
    message.content += part.message.content ?? "";
    message.thinking += part.message.thinking ?? "";
    message.tool_calls.push(...(part.message.tool_calls ?? []));
  }
  return message;
}

const messages = [{ role: "user", content: question }];
const places = [];
for (;;) {
  const message = await turn(messages);
  messages.push(message);
  if (message.tool_calls.length === 0) {
    report(places, message.content);
    break;
  }
  for (const call of message.tool_calls) {
    places.push(call.function.arguments.place);
    messages.push({ role: "tool", content: getWeather(call.function.arguments), tool_name: call.function.name });
  }
}
