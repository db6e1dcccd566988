// The Anthropic package: a message whole and streamed, a count, and an error. Prints what it found as JSON.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.SERVER, apiKey: "unused", maxRetries: 0 });
const model = process.env.MODEL;
const messages = [{ role: "user", content: process.env.QUESTION }];
const found = {};

const whole = await client.messages.create({ model, messages, temperature: 0, max_tokens: 24 });
found.whole = whole.content[0].text;
found.reason = whole.stop_reason;

const stream = client.messages.stream({ model, messages, temperature: 0, max_tokens: 24 });
found.streamed = await stream.finalText();

const properties = { city: { type: "string", maxLength: 20 } };
const call = {
  model: process.env.TOOLS,
  messages,
  tools: [{ name: "get_weather", input_schema: { type: "object", properties, required: ["city"] } }],
  tool_choice: { type: "any", disable_parallel_tool_use: true },
  temperature: 0,
  max_tokens: 100,
};
const called = await client.messages.create(call);
const calling = await client.messages.stream(call).finalMessage();
found.calls = [called, calling].map(({ stop_reason, content }) => [
  stop_reason,
  content.map(({ type, name, input }) => [type, name, input]),
]);

const schema = {
  type: "object",
  properties: { name: { type: "string", maxLength: 20 }, age: { type: "integer", maximum: 150 } },
  required: ["name", "age"],
  additionalProperties: false,
};
const shaped = await client.messages.create({
  model,
  messages: [{ role: "user", content: "Ada is 36. Answer in JSON." }],
  output_config: { format: { type: "json_schema", schema } },
  temperature: 0,
  max_tokens: 100,
});
found.shaped = JSON.parse(shaped.content[0].text);

const counted = await client.messages.countTokens({ model, messages });
found.counted = counted.input_tokens === whole.usage.input_tokens;

try {
  await client.messages.create({ model: "missing", messages, max_tokens: 1 });
} catch (error) {
  found.error = [error.constructor.name, error.status];
}
console.log(JSON.stringify(found));
