//! What is so in a node: gathered here, judged in `node`.

use std::fs;
use std::os::unix::net::UnixDatagram;

use super::super::source::read_or_empty;
use super::config;
use super::kernel::Kernel;
use super::programs::{self, Containerd, Kubelet, OciRuntime, Origin, PluginFile};
use crate::map::assign::{Wants, assign};
use crate::map::kind::Both;
use crate::map::pool::NodeIds;
use crate::pod::{node, presence, rundir, userns};
use crate::sys::{capability, file};

/// `statfs` magic of cgroup v2 (`linux/magic.h`).
const CGROUP2_MAGIC: i64 = 0x6367_7270;
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Pods' namespaces and what else a node makes: with a limit closer than this to what is in use, it is reached soon.
pub const SPARE: u64 = 100;

#[derive(Clone, Debug)]
pub struct Facts {
    /// Its users and groups, or why they are not known.
    pub ids: Result<Both<NodeIds>, String>,
    pub root: bool,
    /// Our effective capabilities, by bit.
    pub capabilities: u64,
    /// The namespace was made without rights over groups.
    pub setgroups_denied: bool,
    /// Making a user namespace with the node's own map: an errno, and what failed.
    pub namespace: Result<(), (i32, String)>,
    pub limits: Limits,
    /// How many namespaces the plugin has made for pods.
    pub pinned: u64,
    pub kernel: Kernel,
    pub supervised: bool,
    pub containerd: Containerd,
    pub kubelet: Option<Kubelet>,
    /// containerd's root folder, if a tmpfs has it.
    pub tmpfs: Option<String>,
    pub mounts: Vec<String>,
    /// What is in containerd's plugin folder.
    pub plugins: Vec<PluginFile>,
    /// The plugin's own configuration: where it is, and its text.
    pub drop_in: (String, String),
    /// Ours in the folder of NRI 0.1.
    pub old_plugin: Option<String>,
    pub nri_socket: bool,
    /// The instance of the plugin that acts.
    pub acting: Option<u32>,
    pub runtime: Option<OciRuntime>,
    /// Somebody listens on journald's socket.
    pub journald: bool,
    /// The controllers of cgroup v2, if that is what is mounted.
    pub controllers: Option<String>,
    pub this: String,
}

/// What the kernel's configuration says of user namespaces; None: it does not know the setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `user.max_user_namespaces`.
    pub most: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`.
    pub apparmor: Option<u64>,
    /// `kernel.unprivileged_userns_clone`.
    pub clone: Option<u64>,
}

impl Limits {
    pub fn gather() -> Limits {
        let read = |name| read_or_empty(&format!("/proc/sys/{name}"), 64).trim().parse().ok();
        Limits {
            most: read("user/max_user_namespaces"),
            apparmor: read("kernel/apparmor_restrict_unprivileged_userns"),
            clone: read("kernel/unprivileged_userns_clone"),
        }
    }

    /// What lets user namespaces be made again.
    pub fn remedy(&self) -> &'static str {
        match (self.clone, self.apparmor, self.most) {
            (Some(0), ..) => "sudo sysctl -w kernel.unprivileged_userns_clone=1  # on the host",
            (_, Some(1), _) => "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
            (.., Some(0..SPARE)) => "sudo sysctl -w user.max_user_namespaces=65536  # on the host",
            _ => "podman run --privileged IMAGE  # on the host",
        }
    }
}

impl Facts {
    pub fn gather() -> Facts {
        let node = node::read();
        let containerd = Containerd::gather();
        let plugins = programs::plugins(folder(&containerd));
        let root = containerd.config.root.clone().unwrap_or_else(|| "/var/lib/containerd".into());
        let is_tmpfs = file::open_dir(&root).and_then(|dir| file::file_system(&dir)).is_ok_and(|is| is == TMPFS_MAGIC);
        let socket = containerd.config.socket_path.as_deref().unwrap_or("/var/run/nri/nri.sock");
        Facts {
            namespace: node.as_ref().map_or(Err((0, String::new())), try_namespace),
            ids: node,
            root: effective("Uid:") == Some(0),
            capabilities: capability::effective(0).unwrap_or(0),
            setgroups_denied: read_or_empty("/proc/self/setgroups", 16).trim() == "deny",
            limits: Limits::gather(),
            pinned: count_pinned(rundir::PATH),
            kernel: Kernel::gather(None),
            supervised: presence::we_are_supervised(),
            kubelet: presence::running("kubelet").map(|pid| Kubelet { pid, supervised: presence::is_supervised(pid) }),
            tmpfs: is_tmpfs.then_some(root),
            mounts: mount_points(&read_or_empty("/proc/self/mountinfo", 16 << 20)),
            drop_in: drop_in(&plugins),
            plugins,
            old_plugin: programs::plugins(OLD_FOLDER).into_iter().find(|p| p.origin != Origin::Foreign).map(|p| p.name),
            nri_socket: fs::exists(socket).unwrap_or(false),
            acting: rundir::acting(rundir::PATH),
            runtime: OciRuntime::gather(&containerd.config),
            journald: UnixDatagram::unbound().is_ok_and(|s| s.connect("/run/systemd/journal/socket").is_ok()),
            controllers: controllers(),
            this: std::env::current_exe().map_or_else(|_| "uid-nri-plugin".into(), |p| p.display().to_string()),
            containerd,
        }
    }

    /// Where the file system is mounted that has this path, if that is not the root's.
    pub fn volume(&self, path: &str) -> Option<&str> {
        let is_above =
            |at: &str| at != "/" && path.strip_prefix(at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.mounts.iter().map(String::as_str).filter(|at| is_above(at)).max_by_key(|at| at.len())
    }

    /// Whether every id that an image may use is in the node's map.
    pub fn needs_nothing(&self) -> bool {
        self.ids.as_ref().is_ok_and(|ids| ids.all(NodeIds::covers_16_bits))
    }
}

/// This process's effective id, by its name in `/proc/PID/status`.
pub fn effective(name: &str) -> Option<u32> {
    let status = presence::status(std::process::id())?;
    presence::field(&status, name)?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The fifth column of `/proc/PID/mountinfo`.
fn mount_points(mountinfo: &str) -> Vec<String> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// The plugin's configuration: of the two files of its name the one that is there.
pub fn drop_in(plugins: &[PluginFile]) -> (String, String) {
    let ours = plugins.iter().find(|p| p.origin != Origin::Foreign && p.is_named());
    let name = ours.map_or("00-uid-mapper", |p| &p.name);
    let [path, other] = [name, &name[3..]].map(|name| format!("/etc/nri/conf.d/{name}.conf"));
    let path = if fs::exists(&path).unwrap_or(false) || !fs::exists(&other).unwrap_or(false) { path } else { other };
    let text = read_or_empty(&path, config::MAX_BYTES);
    (path, text)
}

pub const OLD_FOLDER: &str = "/opt/nri/bin";

/// Where containerd looks for plugins.
pub fn folder(containerd: &Containerd) -> &str {
    containerd.config.plugin_path.as_deref().unwrap_or("/opt/nri/plugins")
}

fn try_namespace(node: &Both<NodeIds>) -> Result<(), (i32, String)> {
    // What a container gets that wants nothing: each id as itself, cut where the node's map is.
    let none = Wants { primary: None, others: &[], optional: &[] };
    let maps = Both::try_new(|kind| {
        assign(node.of(kind), &none).map(|assigned| assigned.map).map_err(|e| (0, e.to_string()))
    })?;
    userns::held(&maps).map(drop).map_err(|e| (e.cause.raw_os_error().unwrap_or(0), e.to_string()))
}

fn count_pinned(run: &str) -> u64 {
    let pods = format!("{run}/pods");
    let of = |pod: &String| programs::names(&format!("{pods}/{pod}"));
    programs::names(&pods).iter().flat_map(of).filter(|name| name.ends_with(".user")).count() as u64
}

/// Whether we are in the machine's own user namespace, by its number (PROC_USER_INIT_INO).
pub fn is_machine() -> bool {
    fs::read_link("/proc/self/ns/user").is_ok_and(|name| name.as_os_str() == "user:[4026531837]")
}

/// What cgroup v2 has at its root, as this cgroup namespace sees it.
pub fn controllers() -> Option<String> {
    let root = file::open_dir("/sys/fs/cgroup").ok()?;
    let v2 = file::file_system(&root).is_ok_and(|magic| magic == CGROUP2_MAGIC);
    v2.then(|| read_or_empty("/sys/fs/cgroup/cgroup.controllers", 4096).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::rundir::tests::Scratch;

    #[test]
    fn mounts_are_listed() {
        let text =
            "22 1 0:20 / / rw - overlay overlay rw\n31 22 8:1 /v/_data /opt rw shared:1 - ext4 /dev/sda1 rw\nx\n";
        assert_eq!(mount_points(text), ["/", "/opt"]);
    }

    #[test]
    #[ignore = "needs root"]
    fn namespaces_of_pods_are_counted() {
        let scratch = Scratch::new("count");
        assert_eq!(count_pinned(&scratch.0), 0);
        for name in ["a/0.user", "a/0.map", "a/1.user", "b/0.user", "b/user"] {
            let path = format!("{}/pods/{name}", scratch.0);
            fs::create_dir_all(path.rsplit_once('/').unwrap().0).unwrap();
            fs::write(path, "").unwrap();
        }
        assert_eq!(count_pinned(&scratch.0), 3);
    }
}
