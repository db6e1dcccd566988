// ollama-js on a real model: chat and generate whole and streamed, a shaped answer, vectors, what is there, a stream that is
// left, and an error. Prints what it found as JSON.
import { Ollama } from "ollama";

const { EMBED, MODEL: model, QUESTION, SERVER } = process.env;
const client = new Ollama({ host: SERVER });
const messages = [{ role: "user", content: QUESTION }];
const options = { temperature: 0, num_predict: 24 };
const found = {};

const whole = await client.chat({ model, messages, options });
found.whole = whole.message.content;
found.reason = whole.done_reason;
found.counted = whole.eval_count;

found.streamed = "";
for await (const part of await client.chat({ model, messages, options, stream: true })) {
  found.streamed += part.message.content;
  found.last = [part.done, part.done_reason, part.eval_count];
}

found.generated = (await client.generate({ model, prompt: QUESTION, options })).response;
found.pieces = [];
for await (const part of await client.generate({ model, prompt: QUESTION, options, stream: true })) {
  found.pieces.push(part.response);
}

const format = {
  type: "object",
  properties: { name: { type: "string", maxLength: 20 }, age: { type: "integer", maximum: 150 } },
  required: ["name", "age"],
};
const ada = [{ role: "user", content: "Ada is 36. Answer in JSON." }];
const shaped = await client.chat({ model, messages: ada, format, options: { temperature: 0, num_predict: 100 } });
found.shaped = JSON.parse(shaped.message.content);

const vectors = await client.embed({ model: EMBED, input: ["Hello", "Goodbye"] });
found.lengths = vectors.embeddings.map((vector) => Math.hypot(...vector));

found.models = (await client.list()).models.map(({ name }) => name);
found.running = (await client.ps()).models.map(({ name }) => name);
found.capabilities = (await client.show({ model })).capabilities;

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "get_weather", description: "Weather", parameters } }];
const offered = await client.chat({ model: process.env.TOOLS, messages, tools, options });
found.offered = offered.done_reason;
found.refused = await client.chat({ model, messages, tools }).catch((error) => error.status_code);

const long = await client.generate({ model, prompt: "Count.", options: { num_predict: 2000 }, stream: true });
try {
  for await (const _ of long) long.abort();
} catch (error) {
  found.aborted = error.name;
}

try {
  await client.chat({ model: "missing", messages });
} catch (error) {
  found.error = [error.name, error.status_code];
}
console.log(JSON.stringify(found));
