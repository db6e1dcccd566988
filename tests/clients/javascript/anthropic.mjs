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

const counted = await client.messages.countTokens({ model, messages });
found.counted = counted.input_tokens === whole.usage.input_tokens;

try {
  await client.messages.create({ model: "missing", messages, max_tokens: 1 });
} catch (error) {
  found.error = [error.constructor.name, error.status];
}
console.log(JSON.stringify(found));
