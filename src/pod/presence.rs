//! Which of the two halves work on this node now. Looks only, and makes nothing.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::node;
use crate::sys::descriptor;
use crate::sys::owner;

/// What the process is called that serves the calls of all that `supervise` runs.
const SERVER: &str = "uid-supervise";

/// The server that folds the calls of containerd, or of this process where no containerd runs. None: none is seen.
pub fn supervise() -> Option<u32> {
    server_of(running("containerd").unwrap_or(std::process::id()))
}

/// The server that folds the calls of a process. None: none is seen.
pub fn server_of(pid: u32) -> Option<u32> {
    let of = filters(&status(pid)?);
    all(SERVER).filter(|server| status(*server).is_some_and(|status| filters(&status) < of)).min()
}

/// Whether the calls of a process are folded, as far as it can be seen.
pub fn is_supervised(pid: u32) -> bool {
    server_of(pid).is_some()
}

/// Whether those of this process are.
pub fn we_are_supervised() -> bool {
    is_supervised(std::process::id()) || is_folded()
}

/// Whether an id that the node lacks can be given to a file by this process: then its calls are folded, even if the
/// server is where it cannot be seen.
pub fn is_folded() -> bool {
    const NO_CHANGE: u32 = u32::MAX;
    let Ok(node) = node::read() else { return false };
    let unmapped = node.uids.ids().iter().map(|range| range.end() + 1).find(|id| *id != NO_CHANGE);
    let chown = |id| descriptor::memory_file().and_then(|file| owner::fchown(file.as_fd(), id, NO_CHANGE));
    unmapped.is_some_and(|id| chown(id).is_ok())
}

/// The first process of this name that is root's and sees our processes and mounts: one below us is another node's, or a
/// container's.
pub fn running(name: &str) -> Option<u32> {
    all(name).min()
}

fn all(name: &str) -> impl Iterator<Item = u32> {
    let is_here = move |pid: &u32| {
        let process = format!("/proc/{pid}");
        // A link that we may not read is that of a process whose program we may not run either.
        let shares = |kind| fs::read_link(format!("{process}/ns/{kind}")).is_err() || shares_ours(&process, kind);
        read(&format!("{process}/comm")).is_some_and(|comm| comm.trim_end() == name)
            && status(*pid).is_some_and(|status| is_roots(&status))
            && shares("pid")
            && shares("mnt")
    };
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(is_here)
}

/// Not just effectively: a user can start a set-user-id program.
fn is_roots(status: &str) -> bool {
    field(status, "Uid:").is_some_and(|ids| ids.split_ascii_whitespace().take(2).eq(["0", "0"]))
}

/// How many seccomp filters are on a process. What a container engine puts on a whole node is on the server too. Before
/// Linux 5.9 it is only told whether there are any.
fn filters(status: &str) -> u32 {
    let any = u32::from(field(status, "Seccomp:") == Some("2"));
    field(status, "Seccomp_filters:").and_then(|count| count.parse().ok()).unwrap_or(any)
}

/// Whether a process, by its folder in /proc, is in our own namespace of this kind.
pub fn shares_ours(process: &str, kind: &str) -> bool {
    let namespace = |of: &str| -> Option<PathBuf> { fs::read_link(format!("{of}/ns/{kind}")).ok() };
    namespace(process).is_some_and(|n| Some(n) == namespace("/proc/self"))
}

/// What `/proc/PID/status` says.
pub fn status(pid: u32) -> Option<String> {
    read(&format!("/proc/{pid}/status"))
}

/// What is beside a name in `/proc/PID/status`.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// A small file of /proc, whatever a process has called itself.
fn read(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(64 << 10).read_to_end(&mut bytes)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether no process may be traced, by nobody, until the machine is booted anew (`kernel.yama.ptrace_scope`).
pub fn no_tracing() -> bool {
    fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() == "3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status() {
        let status = "Name:\tx PPid:\t3\nPPid:\t17\nUid:\t0\t0\t0\t0\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        assert_eq!((field(status, "PPid:"), field(status, "Seccomp:")), (Some("17"), Some("2")));
        assert_eq!((field(status, "Gid:"), field("", "PPid:")), (None, None));
        assert!(is_roots(status) && !is_roots("Uid:\t1000\t0\t0\t0\n") && !is_roots("Uid:\t0\t1000\t0\t0\n"));
        assert!(!is_roots(""));
    }

    #[test]
    fn filters_are_counted() {
        for (status, count) in [
            ("Seccomp:\t2\nSeccomp_filters:\t3\n", 3),
            ("Seccomp:\t0\nSeccomp_filters:\t0\n", 0),
            ("Seccomp:\t2\n", 1),
            ("Seccomp:\t0\n", 0),
            ("", 0),
        ] {
            assert_eq!(filters(status), count, "{status:?}");
        }
    }

    #[test]
    fn a_process_without_a_filter_has_no_server() {
        assert_eq!(server_of(1), None);
        assert_eq!(server_of(u32::MAX), None);
        assert_eq!(running("a name that is too long"), None);
    }

    /// The tests' own machine maps all ids, or is below no supervise.
    #[test]
    fn nobody_folds_the_tests() {
        assert!(!is_folded());
    }
}
