//! What the kernel lets this user do: found by doing it in a child process, in namespaces of its own.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use super::super::source::read_or_empty;
use super::Finding;
use crate::map::cut;
use crate::pod::presence;
use crate::sys::seccomp::{ALLOW, Insn};
use crate::sys::{file, mount, ns, probe, seccomp};

/// The errno of a trial; 0: it worked.
pub type Errno = i32;

/// What an earlier failure has kept from being tried.
pub const NOT_TRIED: Errno = -1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// New namespaces: of mounts, and with `--host` of users around it.
    pub namespaces: Errno,
    /// fsopen, fsmount and move_mount (Linux 5.2).
    pub mounts: Errno,
    /// Overlay file systems in user namespaces (Linux 5.11).
    pub overlay: Errno,
    /// In an overlay on a tmpfs, a new folder in place of one that the image had (Linux 6.6).
    pub replaced: Errno,
    /// Debian's way to have overlay before 5.11 is there, and not taken.
    pub permits: bool,
    /// A tmpfs with mapped ids (Linux 6.3).
    pub idmapped: Errno,
    /// A seccomp filter with a listener; EBUSY: one is on this process already.
    pub listener: Errno,
    /// Seccomp user notification (Linux 5.0).
    pub notification: bool,
    /// Its waits that only a fatal signal ends (Linux 5.19).
    pub killable: bool,
    /// pidfd_getfd (Linux 5.6).
    pub pidfd_getfd: bool,
    /// No process may be traced (kernel.yama.ptrace_scope is 3).
    pub no_tracing: bool,
}

impl Kernel {
    /// Tries. `ids`: of this user and group, in a new user namespace; None: in the one that we are in.
    pub fn gather(ids: Option<(u32, u32)>) -> Kernel {
        let tried = probe::in_child(|| try_all(ids));
        let failed = probe::errno(&tried);
        let [namespaces, mounts, idmapped, overlay, replaced, listener] = tried.unwrap_or(none(failed));
        Kernel {
            release: fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "?".into(), |r| cut(r.trim())),
            namespaces,
            mounts,
            overlay,
            replaced,
            permits: read_or_empty(PERMITS, 8).starts_with('N'),
            idmapped,
            listener,
            notification: probe::has_notification(),
            killable: probe::has_killable_wait(),
            pidfd_getfd: probe::has_pidfd_getfd(),
            no_tracing: presence::no_tracing(),
        }
    }

    /// Tells of features. Those of namespaces are told elsewhere.
    pub fn judge(&self, f: &mut Finding) {
        f.note(&self.release);
        match self.mounts {
            0 => f.note("new mounts"),
            NOT_TRIED => {}
            libc::ENOSYS => f.problem("no fsopen and move_mount", "# boot a kernel of 5.2 or later"),
            e => f.problem(&format!("fsopen fails: {}", errno_text(e)), UNCONFINED),
        }
        match self.overlay {
            0 => f.note("overlay"),
            NOT_TRIED => {}
            libc::EPERM if self.permits => f.warn("overlay in user namespaces is switched off", PERMIT),
            e => f.warn(
                &format!("no overlay in user namespaces (5.11): {}", errno_text(e)),
                "# have containerd use its native snapshotter, or fuse-overlayfs",
            ),
        }
        match (self.notification, self.pidfd_getfd) {
            (true, true) => f.note("seccomp notification"),
            (false, _) => f.warn("no seccomp notification (5.0) for supervise", "# boot a kernel of 5.9 or later"),
            (true, false) => f.warn("no pidfd_getfd (5.6) for supervise", "# boot a kernel of 5.9 or later"),
        }
        // Neither is needed: without the one, signals can interrupt folded calls; the other is for pods with hostUsers: false.
        if !self.killable {
            f.note("no WAIT_KILLABLE_RECV (5.19)");
        }
        match self.idmapped {
            0 => f.note("idmapped mounts"),
            // No namespace more is allowed, which is told elsewhere.
            NOT_TRIED | libc::ENOSPC => {}
            e => f.note(&format!("no idmapped mounts (6.3): {}", errno_text(e))),
        }
    }

    /// Tells of a listener, or of a setting, that is in supervise's way.
    pub fn judge_listener(&self, f: &mut Finding, supervised: bool) {
        if self.no_tracing {
            f.warn(
                "kernel.yama.ptrace_scope is 3: supervise folds nothing",
                "# on the host, then boot it, as 3 stays:\necho kernel.yama.ptrace_scope=2 >/etc/sysctl.d/99-ptrace.conf",
            );
        }
        match self.listener {
            0 | NOT_TRIED => {}
            libc::EBUSY if supervised => {}
            libc::EBUSY => f.warn("a seccomp listener is on this node already: supervise cannot run", UNCONFINED),
            _ if !self.notification => {}
            e => f.warn(&format!("supervise cannot install its filter: {}", errno_text(e)), UNCONFINED),
        }
    }
}

/// Of Debian's kernels before 5.11; it cannot be written to.
const PERMITS: &str = "/sys/module/overlay/parameters/permit_mounts_in_userns";
const PERMIT: &str = "\
echo options overlay permit_mounts_in_userns=1 | sudo tee /etc/modprobe.d/overlay.conf
sudo modprobe -r overlay && sudo modprobe overlay";

/// What takes a container engine's seccomp profile away.
pub const UNCONFINED: &str = "podman run --security-opt seccomp=unconfined IMAGE  # on the host";

/// The kernel's words for an errno.
pub fn errno_text(errno: Errno) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    // Without std's " (os error 1)".
    text.split('(').next().unwrap_or_default().trim_end().to_owned()
}

/// Nothing but the namespaces was tried.
fn none(namespaces: Errno) -> [Errno; 6] {
    [namespaces, NOT_TRIED, NOT_TRIED, NOT_TRIED, NOT_TRIED, NOT_TRIED]
}

/// In the child. The order matters: the last steps hide /proc and cannot be undone.
fn try_all(ids: Option<(u32, u32)>) -> [Errno; 6] {
    let entered = probe::new_namespaces(ids.is_some()).and_then(|()| map_root(ids));
    if entered.is_err() {
        return none(probe::errno(&entered));
    }
    let tmpfs = mount::fresh(c"tmpfs", false);
    let idmapped = if tmpfs.is_ok() { probe::errno(&try_idmapped()) } else { NOT_TRIED };
    let mounts = probe::errno(&tmpfs);
    // containerd asks for extended attributes that users may set, where there are such.
    let [overlay, replaced] = tmpfs.map_or([NOT_TRIED; 2], |tmpfs| try_overlay(tmpfs, &["userxattr,", ""]));
    let filter = Insn { code: 6, jt: 0, jf: 0, k: ALLOW }; // BPF_RET | BPF_K
    let listener = if ids.is_some() { probe::no_new_privileges() } else { Ok(()) };
    let listener = listener.and_then(|()| seccomp::install(&[filter]));
    [0, mounts, idmapped, overlay, replaced, probe::errno(&listener)]
}

fn map_root(ids: Option<(u32, u32)>) -> io::Result<()> {
    let Some((uid, gid)) = ids else { return Ok(()) };
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn try_idmapped() -> io::Result<()> {
    let tmpfs = mount::fresh(c"tmpfs", false)?;
    let holder = ns::Holder::new()?;
    let at = format!("/proc/{}", holder.pid());
    fs::write(format!("{at}/uid_map"), "0 0 1")?;
    fs::write(format!("{at}/gid_map"), "0 0 1")?;
    let user = file::open_namespace(&format!("{at}/ns/user"))?;
    probe::map_mount(tmpfs.as_fd(), user.as_fd())
}

/// With the first of these options that is taken. /proc is a folder that is there for sure, and nobody else sees it covered.
fn try_overlay(tmpfs: std::os::fd::OwnedFd, options: &[&str]) -> [Errno; 2] {
    let mounted = || -> io::Result<()> {
        mount::attach(tmpfs, file::open_dir("/")?.as_fd(), "proc")?;
        for dir in ["lower", "lower/old", "upper", "work", "merged"] {
            fs::create_dir(format!("/proc/{dir}"))?;
        }
        let layers = "lowerdir=/proc/lower,upperdir=/proc/upper,workdir=/proc/work";
        let mut trials =
            options.iter().map(|option| probe::mount_overlay("/proc/merged", &format!("{option}{layers}")));
        trials.find(|tried| tried.is_ok()).unwrap_or_else(|| Err(io::Error::last_os_error()))?;
        fs::write("/proc/merged/file", "")?;
        fs::metadata("/proc/upper/file").map(drop)
    };
    let mounted = mounted();
    if mounted.is_err() {
        return [probe::errno(&mounted), NOT_TRIED];
    }
    let replaced = fs::remove_dir("/proc/merged/old")
        .and_then(|()| fs::create_dir("/proc/merged/new"))
        .and_then(|()| fs::rename("/proc/merged/new", "/proc/merged/old"));
    [0, probe::errno(&replaced)]
}

#[cfg(test)]
pub mod tests {
    use super::super::State;
    use super::*;

    pub const GOOD: Kernel = Kernel {
        release: String::new(),
        namespaces: 0,
        mounts: 0,
        overlay: 0,
        replaced: 0,
        permits: false,
        idmapped: 0,
        listener: 0,
        notification: true,
        killable: true,
        pidfd_getfd: true,
        no_tracing: false,
    };

    fn finding(kernel: &Kernel) -> Finding {
        let mut f = Finding::new("kernel");
        kernel.judge(&mut f);
        f
    }

    fn kernel(release: &str) -> Kernel {
        Kernel { release: release.into(), ..GOOD }
    }

    #[test]
    fn features_are_told() {
        let expected = "ok       kernel      6.18.44; new mounts; overlay; seccomp notification;\n                     \
            idmapped mounts\n";
        assert_eq!(finding(&kernel("6.18.44")).text(), expected);
        let old = Kernel {
            mounts: libc::ENOSYS,
            overlay: NOT_TRIED,
            idmapped: NOT_TRIED,
            listener: libc::EINVAL,
            notification: false,
            killable: false,
            pidfd_getfd: false,
            ..kernel("4.18.0")
        };
        let expected = "\
problem  kernel      4.18.0; no fsopen and move_mount; no seccomp notification
                     (5.0) for supervise; no WAIT_KILLABLE_RECV (5.19)
         # boot a kernel of 5.2 or later
         # boot a kernel of 5.9 or later
";
        assert_eq!(finding(&old).text(), expected);
        let odd = Kernel {
            mounts: libc::EPERM,
            overlay: libc::EPERM,
            idmapped: libc::EINVAL,
            pidfd_getfd: false,
            ..kernel("5.10.0")
        };
        let expected = "\
problem  kernel      5.10.0; fsopen fails: Operation not permitted; no overlay
                     in user namespaces (5.11): Operation not permitted; no
                     pidfd_getfd (5.6) for supervise; no idmapped mounts (6.3):
                     Invalid argument
         podman run --security-opt seccomp=unconfined IMAGE  # on the host
         # have containerd use its native snapshotter, or fuse-overlayfs
         # boot a kernel of 5.9 or later
";
        assert_eq!(finding(&odd).text(), expected);
    }

    #[test]
    fn a_listener_in_the_way_is_told() {
        let found = |listener, supervised| {
            let mut f = Finding::new("others");
            Kernel { listener, ..GOOD }.judge_listener(&mut f, supervised);
            (f.state, f.found)
        };
        assert_eq!(found(0, false), (State::Ok, String::new()));
        assert_eq!(found(libc::EBUSY, true), (State::Ok, String::new()));
        let busy = "a seccomp listener is on this node already: supervise cannot run";
        assert_eq!(found(libc::EBUSY, false), (State::Warning, busy.into()));
        let denied = "supervise cannot install its filter: Operation not permitted";
        assert_eq!(found(libc::EPERM, false), (State::Warning, denied.into()));
    }

    #[test]
    #[ignore = "needs root"]
    fn a_strangers_listener_is_found() {
        let found = probe::in_child(|| {
            let listener = seccomp::install(&[Insn { code: 6, jt: 0, jf: 0, k: ALLOW }]);
            let [.., second] = try_all(None);
            [probe::errno(&listener), second]
        });
        assert_eq!(found.unwrap(), [0, libc::EBUSY]);
    }

    #[test]
    fn what_is_no_lack_of_the_kernel() {
        // The one namespace that is allowed was used for the trial.
        let one = finding(&Kernel { idmapped: libc::ENOSPC, ..kernel("6.18.44") });
        assert_eq!((one.state, one.found.contains("idmapped")), (State::Ok, false));
        let expected = "\
warning  kernel      5.10.0; new mounts; overlay in user namespaces is switched
                     off; seccomp notification; idmapped mounts
         echo options overlay permit_mounts_in_userns=1 | sudo tee \\
           /etc/modprobe.d/overlay.conf
         sudo modprobe -r overlay && sudo modprobe overlay
";
        let debian = Kernel { overlay: libc::EPERM, permits: true, ..kernel("5.10.0") };
        assert_eq!(finding(&debian).text(), expected);
    }

    /// A tmpfs without attributes that users may set, as before Linux 6.6, is like one of which containerd uses none.
    #[test]
    #[ignore = "needs root"]
    fn a_folder_that_cannot_be_replaced_is_found() {
        let found = probe::in_child(|| {
            probe::new_namespaces(true).and_then(|()| map_root(Some((0, 0)))).unwrap();
            try_overlay(mount::fresh(c"tmpfs", false).unwrap(), &[""])
        });
        assert_eq!(found.unwrap(), [0, libc::EXDEV]);
    }

    /// As root on a kernel that has everything; and nothing of it is left behind.
    #[test]
    #[ignore = "needs root"]
    fn what_is_there_is_found() {
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
        let status = || fs::read_to_string("/proc/self/status").unwrap();
        let filters = |s: String| s.lines().find(|l| l.starts_with("Seccomp_filters")).unwrap().to_owned();
        let before = (mounts(), filters(status()));
        for ids in [None, Some((0, 0))] {
            let found = Kernel::gather(ids);
            assert_eq!(found, kernel(&found.release), "{ids:?}");
            assert!(found.release.starts_with(|c: char| c.is_ascii_digit()));
        }
        assert_eq!((mounts(), filters(status())), before);
        assert!(fs::exists("/proc/self/maps").unwrap());
    }
}
