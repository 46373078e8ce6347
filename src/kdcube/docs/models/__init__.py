"""Language models by HTTP: OpenAI's chat completions and Anthropic's messages, streamed."""
