"""Language models: one client for all (`model`), what tells the vendors apart (`openai`, `anthropic`, `gemini`), and
the order in which they are asked (`chain`)."""
