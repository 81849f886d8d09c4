//! The page-fault daemon: serves the memory of microVMs that another process runs.
//!
//! A VMM (Firecracker and its relatives) connects to a Unix socket and hands over a userfaultfd and
//! what lies where in its memory ([`handshake`]). From then on its page faults are served here.
//!
//! | file | what is in it |
//! |---|---|
//! | [`handshake`] | what a VMM says when it connects, both sides of it |

pub mod handshake;
