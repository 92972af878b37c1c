//! File systems that show a pod's namespaces.
//!
//! A container in a user namespace of its own may not mount these: the pod's network, IPC and (shared) pid namespace
//! belong to the node. The node's root may, so we do it for the pod, and the container gets a bind of it. A bind of
//! the node's /sys instead would show the node's network interfaces.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;

use super::rundir::PodDir;
use super::{Result, Step};
use crate::map::idmap::IdMap;
use crate::sys::ns::{Home, Kind};
use crate::sys::{file, mount, ns};

/// A file system of which every instance shows one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFs {
    /// The network namespace.
    Sysfs,
    /// The IPC namespace.
    Mqueue,
    /// The pid namespace.
    Proc,
}

impl PodFs {
    /// By the type of a mount.
    pub fn of_type(name: &str) -> Option<PodFs> {
        match name {
            "sysfs" => Some(PodFs::Sysfs),
            "mqueue" => Some(PodFs::Mqueue),
            "proc" => Some(PodFs::Proc),
            _ => None,
        }
    }

    /// The namespace that it shows.
    pub fn namespace(self) -> Kind {
        match self {
            PodFs::Sysfs => Kind::Net,
            PodFs::Mqueue => Kind::Ipc,
            PodFs::Proc => Kind::Pid,
        }
    }

    fn name(self) -> &'static CStr {
        match self {
            PodFs::Sysfs => c"sysfs",
            PodFs::Mqueue => c"mqueue",
            PodFs::Proc => c"proc",
        }
    }

    fn magic(self) -> i64 {
        match self {
            PodFs::Sysfs => file::SYSFS_MAGIC,
            PodFs::Mqueue => file::MQUEUE_MAGIC,
            PodFs::Proc => file::PROC_MAGIC,
        }
    }
}

/// A mounted file system, to be bound into a container.
pub struct Instance {
    /// Its mount point.
    pub path: String,
    /// Whether it was mounted just now.
    pub made: bool,
}

/// The instance that shows the namespace at `path` (None: the node's own), made if the pod has none yet.
pub fn instance(pod: &PodDir, home: &Home, fs: PodFs, path: Option<&str>) -> Result<Instance> {
    let kind = fs.namespace();
    let there = match path {
        Some(path) => file::open_namespace(path),
        None => home.of(kind).try_clone_to_owned(),
    }
    .map_err(Step::OpenNamespace.on(format!("{kind:?} {}", path.unwrap_or("of the node"))))?;
    // The mount keeps the namespace alive, so its inode number is not given to another one meanwhile.
    let inode = inode(&there).map_err(Step::OpenNamespace.on(format!("{kind:?}")))?;
    let name = format!("{}-{inode}", fs.name().to_string_lossy());
    let step = || Step::PodMount.on(pod.path(&name));

    let made = !pod.holds(&name, fs.magic());
    if made {
        match file::mkdir_at(pod.fd(), &name, 0o700) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(step()(e)),
            _ => {}
        }
        // sysfs is read-only for all whom we touch: a writable one marks a privileged container.
        let fresh = || mount::fresh(fs.name(), fs == PodFs::Sysfs);
        let mounted = ns::inside(kind, home.of(kind), there.as_fd(), || match fs {
            // proc takes the active pid namespace, and only a new process gets the one that was joined.
            PodFs::Proc => ns::in_child(fresh),
            _ => fresh(),
        });
        mount::attach(mounted.map_err(step())?, pod.fd(), &name).map_err(step())?;
    }
    Ok(Instance { path: pod.path(&name), made })
}

const PING_GROUP_RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";
/// How the kernel's default, nobody, reads: `1 0`, but these are groups of the initial user namespace, and where they
/// are not mapped each reads as the overflow gid.
const NOBODY: [[&str; 2]; 2] = [["1", "0"], ["65534", "65534"]];

/// Lets the node's groups open ICMP sockets in a pod's network namespace, if it still has the kernel's default.
/// containerd does this by itself, but not inside a user namespace. Returns whether it was set.
pub fn allow_ping(home: &Home, path: &str, gids: &IdMap) -> Result<bool> {
    let step = || Step::Ping.on(path);
    let there = file::open_namespace(path).map_err(step())?;
    let last = gids.extents().last().map_or(0, |e| e.inside + (e.count - 1));
    ns::inside(Kind::Net, home.of(Kind::Net), there.as_fd(), || {
        let range = fs::read_to_string(PING_GROUP_RANGE)?;
        let untouched = NOBODY.iter().any(|nobody| range.split_ascii_whitespace().eq(*nobody));
        if untouched {
            fs::write(PING_GROUP_RANGE, format!("0 {last}"))?;
        }
        Ok(untouched)
    })
    .map_err(step())
}

fn inode(namespace: &std::os::fd::OwnedFd) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::File::from(namespace.try_clone()?).metadata()?.ino())
}
