//! Which of the two halves work on this node now. Looks only, and makes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::source;

/// The `supervise` that containerd runs below, or this process where no containerd runs. None: none is seen.
pub fn supervise() -> Option<u32> {
    above(running("containerd").unwrap_or(std::process::id()))
}

/// The first process of this name that is root's and sees our processes and mounts: one below us is another node's, or a
/// container's.
pub fn running(name: &str) -> Option<u32> {
    let is_here = |pid: &u32| {
        let process = format!("/proc/{pid}");
        // A link that we may not read is that of a process whose program we may not run either.
        let shares =
            |kind| fs::read_link(format!("{process}/ns/{kind}")).is_err() || source::shares_ours(&process, kind);
        source::read(&format!("{process}/comm"), 64).is_ok_and(|comm| comm.trim_end() == name)
            && fs::metadata(&process).is_ok_and(|meta| meta.uid() == 0)
            && shares("pid")
            && shares("mnt")
    };
    let names = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(is_here).min()
}

/// What `/proc/PID/status` says.
fn status(pid: u32) -> Option<String> {
    source::read(&format!("/proc/{pid}/status"), 64 * 1024).ok()
}

/// The nearest ancestor that is a `supervise`; what it runs has a seccomp filter (mode 2).
pub fn above(pid: u32) -> Option<u32> {
    let of = status(pid)?;
    if field(&of, "Seccomp:") != Some("2") {
        return None;
    }
    let parent = |status: &str| field(status, "PPid:")?.parse::<u32>().ok();
    let mut at = parent(&of)?;
    // Deeper than any tree of processes is long; pid 0 is around this namespace.
    for _ in 0..1000 {
        if at == 0 {
            return None;
        }
        let words = source::read(&format!("/proc/{at}/cmdline"), 1 << 22).ok()?;
        if words.split('\0').nth(1) == Some("supervise") {
            return Some(at);
        }
        at = parent(&status(at)?)?;
    }
    None
}

/// What is beside a name in `/proc/PID/status`.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status() {
        let status = "Name:\tx PPid:\t3\nPPid:\t17\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!((field(status, "PPid:"), field(status, "Seccomp:")), (Some("17"), Some("2")));
        assert_eq!((field(status, "Uid:"), field("", "PPid:")), (None, None));
    }

    #[test]
    fn a_process_without_a_filter_is_below_none() {
        assert_eq!(above(1), None);
        assert_eq!(above(u32::MAX), None);
    }
}
