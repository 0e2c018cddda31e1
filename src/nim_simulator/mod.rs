//! An OpenAI-compatible server with the timing of a real engine, and faults on request.
