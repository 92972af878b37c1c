//! `/run/uid-nri-plugin`: the lock, and a folder for each pod with what was made for it.
//!
//! It is ours and root's alone. Everything is reached by descriptor and single name, links are never followed, and
//! all state is here: a plugin that starts anew finds what an earlier one made.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::{Context, Result};
use crate::sys::{file, lock, mount};

pub const PATH: &str = "/run/uid-nri-plugin";

pub struct RunDir {
    path: String,
    pods: OwnedFd,
    lock: File,
    held: bool,
}

pub struct PodDir {
    fd: OwnedFd,
    path: String,
}

impl RunDir {
    /// Opens the folder, making it if needed. It must be root's own and closed to everybody else.
    pub fn open(path: &str) -> Result<RunDir> {
        RunDir::make_or_open(path).doing(format_args!("open the run folder {path}"))
    }

    fn make_or_open(path: &str) -> io::Result<RunDir> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let dir = make_or_open(file::open_dir(parent)?.as_fd(), name)?;
        let meta = File::from(dir.try_clone()?).metadata()?;
        if meta.uid() != 0 || meta.mode() & 0o077 != 0 {
            return Err(io::Error::other("it must belong to root and have mode 0700; remove it"));
        }
        let pods = make_or_open(dir.as_fd(), "pods")?;
        let lock = file::open_or_create_at(dir.as_fd(), "lock")?;
        Ok(RunDir { path: path.to_owned(), pods, lock, held: false })
    }

    /// Whether this process is the one instance that acts: takes the lock if it is free.
    pub fn try_lock(&mut self) -> Result<bool> {
        if !self.held {
            self.held = lock::try_lock(&self.lock).doing(format_args!("lock {}", self.path))?;
        }
        Ok(self.held)
    }

    pub fn wait_lock(&mut self) -> Result<()> {
        lock::lock(&self.lock).doing(format_args!("lock {}", self.path))?;
        self.held = true;
        Ok(())
    }

    /// The pid of the instance that acts, if it is another one.
    pub fn holder(&self) -> Option<u32> {
        lock::holder(&self.lock).ok().flatten()
    }

    pub fn pod(&self, id: &str) -> Result<PodDir> {
        let path = format!("{}/pods/{id}", self.path);
        let fd = is_plain_name(id).and_then(|()| make_or_open(self.pods.as_fd(), id));
        Ok(PodDir { fd: fd.doing(format_args!("open the pod's folder {path}"))?, path })
    }

    /// Removes all that was made for a pod. Nothing there is nothing to do.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        self.remove(id).doing(format_args!("remove {}/pods/{id}", self.path))
    }

    fn remove(&self, id: &str) -> io::Result<()> {
        is_plain_name(id)?;
        let dir = match file::open_dir_at(self.pods.as_fd(), id) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => dir?,
        };
        let mut removed = Ok(());
        for name in names(dir.as_fd())? {
            // One mount at most is ours; a second one on top would be somebody's mistake, and goes too.
            while mount::detach(dir.as_fd(), &name).is_ok() {}
            removed = removed.and(file::remove_at(dir.as_fd(), &name));
        }
        removed.and_then(|()| file::remove_at(self.pods.as_fd(), id))
    }

    /// Whether the folder is still there: somebody may have removed /run's contents.
    pub fn is_there(&self) -> bool {
        file::links(&self.pods).is_ok_and(|n| n > 0)
    }

    /// Removes what was made for pods that are not among `known`. Returns how many went, and the first failure.
    pub fn sweep(&self, known: &HashSet<String>) -> (usize, Result<()>) {
        let ids = match names(self.pods.as_fd()).doing(format_args!("list {}/pods", self.path)) {
            Ok(ids) => ids,
            Err(e) => return (0, Err(e)),
        };
        let (mut count, mut all) = (0, Ok(()));
        for id in ids.iter().filter(|id| !known.contains(*id)) {
            let removed = self.remove_pod(id);
            count += usize::from(removed.is_ok());
            all = all.and(removed);
        }
        (count, all)
    }
}

impl PodDir {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// Whether a file system of this kind is mounted on `name`.
    pub fn holds(&self, name: &str, magic: i64) -> bool {
        file::open_path_at(self.fd(), name).and_then(|fd| file::file_system(&fd)).is_ok_and(|found| found == magic)
    }
}

/// The pid of the instance that acts, asked without making or changing anything. None: there is none, or we may not know.
pub fn acting(path: &str) -> Option<u32> {
    let dir = file::open_dir(path).ok()?;
    let lock = file::open_at(dir.as_fd(), "lock").ok()?;
    lock::holder(&lock).ok().flatten()
}

/// Whether an id that comes from the runtime or a user can be a file name: letters, digits, `_`, `-` and `.` only.
pub fn is_plain_name(name: &str) -> io::Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a sandbox id"));
    }
    Ok(())
}

fn make_or_open(dir: BorrowedFd, name: &str) -> io::Result<OwnedFd> {
    or_there(file::mkdir_at(dir, name, 0o700))?;
    file::open_dir_at(dir, name)
}

/// What was made just now, or was there before.
pub fn or_there(made: io::Result<()>) -> io::Result<()> {
    made.or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
}

fn names(dir: BorrowedFd) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sys::fork;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A folder of our own under /run, gone when dropped.
    pub struct Scratch(pub String);

    impl Scratch {
        pub fn new(name: &str) -> Scratch {
            let path = format!("/run/uid-nri-plugin-test-{}-{name}", std::process::id());
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn makes_opens_and_removes() {
        let scratch = Scratch::new("rundir");
        let run = RunDir::open(&scratch.0).unwrap();
        assert_eq!(fs::metadata(&scratch.0).unwrap().mode() & 0o7777, 0o700);
        let pod = run.pod("abc").unwrap();
        fs::write(pod.path("0.map"), "x").unwrap();
        fs::create_dir(pod.path("sysfs-1")).unwrap();
        run.pod("def").unwrap();
        drop(pod);
        RunDir::open(&scratch.0).unwrap().remove_pod("abc").unwrap();
        run.remove_pod("never-there").unwrap();
        assert_eq!(names(run.pods.as_fd()).unwrap(), ["def"]);
        let (removed, result) = run.sweep(&HashSet::from(["def".to_owned()]));
        assert!((removed, result.is_ok()) == (0, true));
        assert_eq!(run.sweep(&HashSet::new()).0, 1);
        assert!(names(run.pods.as_fd()).unwrap().is_empty());
    }

    #[test]
    #[ignore = "needs root"]
    fn refuses_what_is_not_roots_own() {
        let scratch = Scratch::new("lax");
        fs::create_dir(&scratch.0).unwrap();
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
        let error = RunDir::open(&scratch.0).err().unwrap().to_string();
        assert!(error.ends_with("it must belong to root and have mode 0700; remove it"), "{error}");
        fs::remove_dir(&scratch.0).unwrap();
        symlink("/tmp", &scratch.0).unwrap();
        let error = RunDir::open(&scratch.0).err().unwrap();
        fs::remove_file(&scratch.0).unwrap();
        assert_eq!(error.cause.raw_os_error(), Some(libc::ENOTDIR), "{error}");
    }

    #[test]
    #[ignore = "needs root"]
    fn follows_no_link_and_takes_no_path() {
        let scratch = Scratch::new("links");
        let run = RunDir::open(&scratch.0).unwrap();
        let target = Scratch::new("links-target");
        fs::create_dir(&target.0).unwrap();
        fs::write(format!("{}/keep", target.0), "").unwrap();
        symlink(&target.0, format!("{}/pods/evil", scratch.0)).unwrap();
        assert_eq!(run.pod("evil").err().unwrap().cause.raw_os_error(), Some(libc::ENOTDIR));
        assert_eq!(run.remove_pod("evil").err().unwrap().cause.raw_os_error(), Some(libc::ENOTDIR));
        // A link inside a pod's folder is removed itself.
        let pod = run.pod("good").unwrap();
        symlink(&target.0, pod.path("sysfs-1")).unwrap();
        run.remove_pod("good").unwrap();
        assert!(fs::exists(format!("{}/keep", target.0)).unwrap());
        for id in ["", ".", "..", "../x", "a/b", "a\0b", "a b", &"a".repeat(300)] {
            let error = run.pod(id).err().unwrap().to_string();
            assert!(error.ends_with("not a sandbox id"), "{error}");
            assert!(run.remove_pod(id).is_err());
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn nobody_acts_where_nothing_is() {
        assert_eq!(acting("/nonexistent"), None);
        let scratch = Scratch::new("acting");
        drop(RunDir::open(&scratch.0).unwrap());
        assert_eq!(acting(&scratch.0), None);
        // A lock is a process's own, so another one has to hold it.
        let file = File::options().write(true).open(format!("{}/lock", scratch.0)).unwrap();
        let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let Some(child) = fork::fork().unwrap() else {
            let held = lock::try_lock(&file).unwrap_or(false);
            let _ = std::io::Write::write_all(&mut theirs, &[u8::from(held)]);
            std::thread::sleep(std::time::Duration::from_secs(60));
            std::process::abort();
        };
        let mut held = [0];
        std::io::Read::read_exact(&mut ours, &mut held).unwrap();
        let found = acting(&scratch.0);
        fork::kill(child, libc::SIGKILL).unwrap();
        fork::wait_child(child).unwrap();
        assert_eq!((held, found), ([1], Some(child)));
        assert_eq!(acting(&scratch.0), None);
    }

    #[test]
    #[ignore = "needs root"]
    fn an_instance_that_has_the_lock_keeps_it() {
        let scratch = Scratch::new("lock");
        let mut run = RunDir::open(&scratch.0).unwrap();
        assert!(run.try_lock().unwrap() && run.try_lock().unwrap());
        assert_eq!(run.holder(), None);
    }
}
