//! The HTTP surface over real connections, with sessions and files made by hand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod access;
mod playback;
mod posters;
mod recordings;
mod server;
mod support;
