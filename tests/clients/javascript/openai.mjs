// The openai package: chat whole, streamed and shaped, responses, embeddings and an error. Prints what it found as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.SERVER}/v1`, apiKey: "unused", maxRetries: 0 });
const model = process.env.MODEL;
const messages = [{ role: "user", content: process.env.QUESTION }];
const found = {};

const whole = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 24 });
found.whole = whole.choices[0].message.content;

const runner = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 24 });
found.streamed = await runner.finalContent();

const schema = {
  type: "object",
  properties: { name: { type: "string", maxLength: 20 }, age: { type: "integer", maximum: 150 } },
  required: ["name", "age"],
  additionalProperties: false,
};
const shaped = await client.chat.completions.parse({
  model,
  messages: [{ role: "user", content: "Ada is 36. Answer in JSON." }],
  response_format: { type: "json_schema", json_schema: { name: "person", strict: true, schema } },
  temperature: 0,
  max_tokens: 100,
});
found.shaped = JSON.parse(shaped.choices[0].message.content);

const parameters = { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"] };
const call = {
  model: process.env.TOOLS,
  messages,
  tools: [{ type: "function", function: { name: "get_weather", parameters } }],
  tool_choice: "required",
  parallel_tool_calls: false,
  temperature: 0,
  max_tokens: 100,
};
const called = await client.chat.completions.create(call);
const calling = await client.chat.completions.stream(call).finalChatCompletion();
found.calls = [called, calling].map(({ choices: [{ finish_reason, message }] }) => [
  finish_reason,
  message.tool_calls.map((each) => [each.function.name, JSON.parse(each.function.arguments)]),
]);

const stream = client.responses.stream({ model, input: process.env.QUESTION, temperature: 0, max_output_tokens: 24 });
found.kinds = [];
for await (const event of stream) {
  if (found.kinds.at(-1) !== event.type) found.kinds.push(event.type);
}
found.response = (await stream.finalResponse()).output_text;

const vectors = await client.embeddings.create({ model: process.env.EMBED, input: ["Hello"] });
found.length = Math.hypot(...vectors.data[0].embedding);

try {
  await client.chat.completions.create({ model: "missing", messages });
} catch (error) {
  found.error = [error.constructor.name, error.status];
}
console.log(JSON.stringify(found));
