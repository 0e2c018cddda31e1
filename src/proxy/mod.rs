//! The data path: pingora service, our forwarding loop, refusals.

mod stream;
