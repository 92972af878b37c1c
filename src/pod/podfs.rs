//! File systems that show a pod's namespaces.
//!
//! A container in a user namespace of its own may not mount these: the pod's network, IPC and (shared) pid namespace
//! belong to the node. The node's root may, so we do it for the pod, and the container gets a bind of it. A bind of
//! the node's /sys instead would show the node's network interfaces.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::rundir::{PodDir, or_there};
use super::{Context, Result};
use crate::map::pool::NodeIds;
use crate::sys::ns::{Home, Kind};
use crate::sys::{file, mount};

/// A file system of which every instance shows one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFs {
    Sysfs,
    Mqueue,
    Proc,
}

impl PodFs {
    pub fn of_type(name: &str) -> Option<PodFs> {
        [PodFs::Sysfs, PodFs::Mqueue, PodFs::Proc].into_iter().find(|fs| fs.facts().0.to_bytes() == name.as_bytes())
    }

    /// What an OCI configuration calls the namespace that it shows.
    pub fn namespace(self) -> &'static str {
        self.facts().1
    }

    /// Its type; the namespace that it shows, as an OCI configuration and as /proc/PID/ns call it; its magic number.
    fn facts(self) -> (&'static CStr, &'static str, &'static str, i64) {
        match self {
            PodFs::Sysfs => (c"sysfs", "network", "net", file::SYSFS_MAGIC),
            PodFs::Mqueue => (c"mqueue", "ipc", "ipc", file::MQUEUE_MAGIC),
            PodFs::Proc => (c"proc", "pid", "pid", file::PROC_MAGIC),
        }
    }
}

/// The mount point of the instance that shows the namespace at `path` (None: the node's own), and whether it was made just
/// now, since the pod had none yet.
pub fn instance(pod: &PodDir, home: &Home, fs: PodFs, path: Option<&str>) -> Result<(String, bool)> {
    let shown = path.unwrap_or("of the node");
    let (fs_type, _, link, magic) = fs.facts();
    let opened =
        file::open_namespace(path.unwrap_or(&format!("/proc/self/ns/{link}"))).and_then(|fd| Ok((inode(&fd)?, fd)));
    let (inode, there) = opened.doing(format_args!("open the pod's namespace {shown}"))?;
    // A sandbox keeps its namespaces for life; a debugging container may join the pid namespace of another container.
    let name = format!("{}-{inode}", fs_type.to_string_lossy());
    let at = pod.path(&name);
    let made = !pod.holds(&name, magic);
    if made {
        let mount = || match (fs, path) {
            // sysfs is read-only for all whom we touch: a writable one marks a privileged container.
            (PodFs::Sysfs, _) => home.inside(Kind::Net, there.as_fd(), || mount::fresh(fs_type, true)),
            (PodFs::Mqueue, _) => home.inside(Kind::Ipc, there.as_fd(), || mount::fresh(fs_type, false)),
            (PodFs::Proc, Some(path)) => proc_of(home, path, inode),
            (PodFs::Proc, None) => mount::fresh(fs_type, false),
        };
        let folder = or_there(file::mkdir_at(pod.fd(), &name, 0o700));
        let mounted = folder.and_then(|()| mount::attach(mount()?, pod.fd(), &name));
        mounted.doing(format_args!("mount {at} for namespace {shown}"))?;
    }
    Ok((at, made))
}

/// A copy of the proc that the process behind `/proc/PID/ns/pid` has mounted itself.
///
/// A new proc would show the pid namespace of the process that makes it, so a process of ours would have to be in the
/// pod's, with the node's rights: whoever may trace it there would have them too, and anybody could stop it.
fn proc_of(home: &Home, path: &str, pid_namespace: u64) -> io::Result<OwnedFd> {
    let process = path.strip_suffix("/ns/pid").ok_or_else(|| io::Error::other("it is not that of a process"))?;
    let mounts = file::open_namespace(&format!("{process}/ns/mnt"))?;
    let copy = home.inside(Kind::Mount, mounts.as_fd(), || mount::clone_tree("/proc"))?;
    // Whatever was mounted there, process 1 of the right instance is in the right namespace.
    let first = file::open_namespace_at(copy.as_fd(), "1/ns/pid")?;
    if file::file_system(&copy)? != file::PROC_MAGIC || inode(&first)? != pid_namespace {
        return Err(io::Error::other("its /proc shows other processes"));
    }
    Ok(copy)
}

const PING_GROUP_RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";
/// How the kernel's default, nobody, reads: `1 0`, but these are groups of the initial user namespace, and where they
/// are not mapped each reads as the overflow gid.
const NOBODY: [[&str; 2]; 2] = [["1", "0"], ["65534", "65534"]];

/// Lets the node's groups open ICMP sockets in a pod's network namespace, if it still has the kernel's default.
/// containerd does this by itself, but not inside a user namespace. Returns whether it was set.
pub fn allow_ping(home: &Home, path: &str, gids: &NodeIds) -> Result<bool> {
    // The kernel compares outer ids: where gid 0 is outside above the last one, the whole range counts as empty.
    let whole = gids.lines().last().map(|line| 0..=*line.end());
    let longest = gids.lines().iter().max_by_key(|line| line.end() - line.start()).cloned();
    let set = || {
        if !is_nobody()? {
            return Ok(false);
        }
        for range in [whole, longest].into_iter().flatten() {
            fs::write(PING_GROUP_RANGE, format!("{} {}", range.start(), range.end()))?;
            if !is_nobody()? {
                return Ok(true);
            }
        }
        Err(io::Error::other("the kernel takes no range of the node's gids"))
    };
    let done = file::open_namespace(path).and_then(|there| home.inside(Kind::Net, there.as_fd(), set));
    done.doing(format_args!("set ping_group_range in {path}"))
}

fn is_nobody() -> io::Result<bool> {
    let range = fs::read_to_string(PING_GROUP_RANGE)?;
    Ok(NOBODY.iter().any(|nobody| range.split_ascii_whitespace().eq(*nobody)))
}

fn inode(namespace: &OwnedFd) -> io::Result<u64> {
    Ok(fs::File::from(namespace.try_clone()?).metadata()?.ino())
}
