//! What comes out: Prometheus metrics and logs.
