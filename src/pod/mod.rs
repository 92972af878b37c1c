//! What is decided and made for a pod: the node's ids, the decision, the pinned user namespaces, and mounts of the pod's
//! namespaces.

pub mod config;
pub mod decision;
pub mod features;
pub mod image;
pub mod node;
pub mod podfs;
pub mod presence;
pub mod rundir;
pub mod userns;

use std::fmt;
use std::io;

#[derive(Debug)]
pub struct Error {
    /// The call, and its path.
    doing: String,
    pub cause: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.cause)
    }
}

impl From<Error> for String {
    fn from(e: Error) -> String {
        e.to_string()
    }
}

pub type Result<T> = std::result::Result<T, Error>;

pub trait Context<T> {
    /// Says what could not be done: "open the run folder /run/x".
    fn doing(self, what: fmt::Arguments) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn doing(self, what: fmt::Arguments) -> Result<T> {
        self.map_err(|cause| Error { doing: what.to_string(), cause })
    }
}
