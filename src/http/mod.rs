//! Outgoing HTTP: the one place where a call is made over TCP and TLS.
//!
//! A [`Client`] is asked synchronously, from any thread. It sends a [`Request`] and gives a [`Response`] as soon as the
//! headers are there, whose [`Body`] is read like a file. Every call takes a [`Progress`](crate::progress::Progress), which ends it wherever it
//! waits, and every wait has a deadline: see [`Patience`]. Connections are used again; proxies are those that the
//! environment names. Nothing is followed, retried or authenticated here: that is for who knows the protocol.
//!
//! rustls is known in this room only. Must not import anything of the crate but [`progress`](crate::progress).

mod address;
mod body;
mod client;
mod connection;
mod error;
mod pool;
mod tls;

#[cfg(test)]
mod tests;

pub use hyper::header;
pub use hyper::{HeaderMap, Method, StatusCode};
pub use url::Url;

pub use body::Body;
pub use client::{Client, Options, Patience, Request, Response};
pub use error::HttpError;
