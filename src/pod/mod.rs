//! What is decided and made for a pod: the node's ids, policy, the pinned user namespaces, and mounts of the pod's namespaces.

pub mod node;
pub mod podfs;
pub mod policy;
pub mod presence;
pub mod rundir;
pub mod userns;

use std::fmt;
use std::io;

/// What was being done when a system call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making or opening our folder under /run.
    RunDir,
    /// Locking the lock file, or asking who has it.
    Lock,
    /// Making or opening a pod's folder.
    PodDir,
    /// Removing something of a pod that is gone.
    Remove,
    /// clone(CLONE_NEWUSER).
    MakeNamespace,
    /// Writing uid_map or gid_map.
    WriteMap,
    /// Making the file and the bind mount that keep a namespace.
    Pin,
    /// Opening one of the pod's namespaces.
    OpenNamespace,
    /// Making a file system that shows one of the pod's namespaces.
    PodMount,
    /// Setting ping_group_range.
    Ping,
}

impl Step {
    fn doing(self) -> &'static str {
        match self {
            Step::RunDir => "open the run folder",
            Step::Lock => "lock",
            Step::PodDir => "open the pod's folder",
            Step::Remove => "remove",
            Step::MakeNamespace => "make a user namespace (see user.max_user_namespaces)",
            Step::WriteMap => "write the id map (the node's root needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP)",
            Step::Pin => "pin the user namespace at",
            Step::OpenNamespace => "open the pod's namespace",
            Step::PodMount => "mount",
            Step::Ping => "set ping_group_range in",
        }
    }

    /// Names the step and its object beside the errno.
    pub fn on(self, object: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |cause| Error { step: self, object: object.into(), cause }
    }
}

/// A step that failed, on what, and why.
#[derive(Debug)]
pub struct Error {
    /// The step.
    pub step: Step,
    /// Its object: a path, a map, a pod.
    pub object: String,
    /// The errno.
    pub cause: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.object.is_empty() { "" } else { " " };
        write!(f, "cannot {}{space}{}: {}", self.step.doing(), self.object, self.cause)
    }
}

/// The result of everything here that makes system calls.
pub type Result<T> = std::result::Result<T, Error>;
