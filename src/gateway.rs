//! The whole gateway as one value: [`Gateway::load`] binds and opens everything, [`Gateway::run`] serves until it is told
//! to stop. Assembly only; every decision belongs to the module that is assembled here.
//!
//! Order at the start: configuration errors first, then GStreamer and the pipelines (nothing is bound when they are
//! wrong), the data folder with the repair of what a crash left, the WebRTC ports, at last HTTP, so that whoever
//! reaches the gateway reaches a complete one. Order at the end: new publishers are refused, peers are closed with
//! DTLS, playlists end, recordings are completed, and HTTP goes last so that viewers get the tail.
