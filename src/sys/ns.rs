//! Namespaces: joining one for a moment, and making a user namespace.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{capability, cerr, retry};

const CAP_SYS_PTRACE: u64 = 1 << 19;

/// The kinds of namespace that we join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network.
    Net,
    Ipc,
    Mount,
}

impl Kind {
    fn flag(self) -> libc::c_int {
        match self {
            Kind::Net => libc::CLONE_NEWNET,
            Kind::Ipc => libc::CLONE_NEWIPC,
            Kind::Mount => libc::CLONE_NEWNS,
        }
    }
}

fn setns(fd: BorrowedFd, flag: libc::c_int) -> io::Result<()> {
    // SAFETY: `fd` is open; the kernel checks that it is a namespace of this kind.
    retry(|| unsafe { libc::setns(fd.as_raw_fd(), flag) }.into()).map(drop)
}

const STACK: usize = 4 * 1024;

/// The top of a child's stack, 16-byte aligned as both x86-64 and aarch64 demand.
fn top(stack: &mut [u8]) -> *mut libc::c_void {
    let end = stack.as_mut_ptr_range().end;
    end.wrapping_sub(end as usize % 16).cast()
}

/// Keeps this process's memory from all who have not CAP_SYS_PTRACE where its program was executed. Undone when the last
/// one is dropped.
struct NotDumpable;

static NOT_DUMPABLE: AtomicUsize = AtomicUsize::new(0);

impl NotDumpable {
    fn new() -> NotDumpable {
        NOT_DUMPABLE.fetch_add(1, Ordering::Relaxed);
        set_dumpable(false);
        NotDumpable
    }
}

impl Drop for NotDumpable {
    fn drop(&mut self) {
        if NOT_DUMPABLE.fetch_sub(1, Ordering::Relaxed) == 1 {
            set_dumpable(true);
        }
    }
}

fn set_dumpable(yes: bool) {
    // SAFETY: integers. 0 and 1 are always taken.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(yes), 0, 0, 0) };
}

/// A process that does nothing but hold a new user namespace, whose maps are still empty. Gone when dropped.
///
/// It shares our memory, and all root processes of the node have all rights in a namespace that root has made, be they a
/// container's without any of the node's rights. So while it is there this memory is not dumpable: to trace it takes
/// CAP_SYS_PTRACE in the node's own namespace. We have that, and need it to open `/proc/PID/ns/user`.
pub struct Holder {
    pid: libc::pid_t,
    _guard: NotDumpable,
    _stack: Vec<u8>,
}

impl Holder {
    /// Makes the namespace. The process also ends by itself when its maker dies.
    pub fn new() -> io::Result<Holder> {
        let mut stack = vec![0; STACK];
        let guard = NotDumpable::new();
        // SAFETY: getpid has no preconditions.
        let parent = unsafe { libc::getpid() };
        let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::SIGCHLD;
        // SAFETY: the child runs `hold` on `_stack`, which lives until the child is reaped. It shares our memory, and
        // beside us it only makes raw system calls that cannot fail (errno is shared) and touches nothing else.
        let pid = cerr(unsafe { libc::clone(hold, top(&mut stack), flags, parent as *mut libc::c_void) }.into())?;
        let holder = Holder { pid: pid as libc::pid_t, _guard: guard, _stack: stack };
        // With that capability and without access, our program was executed in another namespace than ours (in check
        // --host, a trial within a new one). Then this one is made by somebody whose rights no container has.
        let denied = |file: io::Result<File>| file.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
        let at = |name| format!("/proc/{pid}/{name}");
        if (denied(File::options().write(true).open(at("uid_map"))) || denied(File::open(at("ns/user"))))
            && capability::effective(0)? & CAP_SYS_PTRACE != 0
        {
            set_dumpable(true);
        }
        Ok(holder)
    }

    /// Its pid; not reused before the drop, since nobody else can reap it.
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: `pid` is our own child that nobody has reaped.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // It can only fail if the child is not ours, and then there is nothing to wait for.
        let _ = reap(self.pid);
    }
}

extern "C" fn hold(parent: *mut libc::c_void) -> libc::c_int {
    // SAFETY: raw system calls without pointers, but for ppoll's four nulls: no descriptors, no timeout, no mask.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG as libc::c_long, libc::SIGKILL as libc::c_long, 0, 0, 0);
        // The parent may have died before the line above; then we have another one by now.
        while libc::syscall(libc::SYS_getppid) == parent as libc::c_long {
            libc::syscall(libc::SYS_ppoll, 0usize, 0usize, 0usize, 0usize, 0usize);
        }
    }
    0
}

fn reap(pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: a null status pointer says that the status is not wanted.
    retry(|| unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) }.into()).map(drop)
}

/// Our own namespaces and working directory, to come back to.
pub struct Home {
    net: File,
    ipc: File,
    mount: File,
    directory: File,
}

impl Home {
    pub fn open() -> io::Result<Home> {
        let open = |path| File::open(path);
        Ok(Home {
            net: open("/proc/self/ns/net")?,
            ipc: open("/proc/self/ns/ipc")?,
            mount: open("/proc/self/ns/mnt")?,
            directory: open(".")?,
        })
    }

    /// Whether this path leads to our own network namespace.
    pub fn is_our_net(&self, path: &str) -> bool {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        matches!((std::fs::metadata(path), self.net.metadata()), (Ok(a), Ok(b)) if same(&a, &b))
    }

    /// Runs `work` in the namespace `there`, and comes back on every path.
    /// The process aborts if the way back fails: it must not go on as a member of a pod.
    pub fn inside<T>(&self, kind: Kind, there: BorrowedFd, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        setns(there, kind.flag())?;
        let result = work();
        let back = match kind {
            Kind::Net => setns(self.net.as_fd(), kind.flag()),
            Kind::Ipc => setns(self.ipc.as_fd(), kind.flag()),
            // Joining a mount namespace leads to its root, and coming back to ours.
            Kind::Mount => setns(self.mount.as_fd(), kind.flag()).and_then(|()| self.change_directory()),
        };
        if let Err(e) = back {
            eprintln!("uid-nri-plugin: cannot return to the node's {kind:?} namespace: {e}");
            std::process::abort();
        }
        result
    }

    fn change_directory(&self) -> io::Result<()> {
        // SAFETY: `directory` is open.
        cerr(unsafe { libc::fchdir(self.directory.as_raw_fd()) }.into()).map(drop)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::sys::probe;

    /// In a child: root with a container's usual capabilities, and no more, tries to trace a process. Its errno.
    fn trace_as_a_container(pid: libc::pid_t) -> i32 {
        /// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT,
        /// MKNOD, AUDIT_WRITE, SETFCAP.
        const USUAL: u32 = 0xa804_25fb;
        let found = probe::in_child(|| {
            // _LINUX_CAPABILITY_VERSION_3, this thread; effective, permitted, inheritable, twice.
            let (header, data) = ([0x2008_0522, 0], [USUAL, USUAL, 0, 0, 0, 0]);
            // SAFETY: capset reads two words and six; ptrace takes integers.
            let tried = unsafe {
                cerr(libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()))
                    .and_then(|_| cerr(libc::syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE as libc::c_uint, pid, 0, 0)))
            };
            [probe::errno(&tried)]
        });
        found.unwrap()[0]
    }

    /// In processes of their own: other tests make holders at the same time.
    #[test]
    #[ignore = "needs root"]
    fn a_holder_is_not_traced_by_a_container() {
        let found = probe::in_child(|| {
            // Those of other tests' threads, which are not in this process.
            NOT_DUMPABLE.store(0, Ordering::Relaxed);
            let holder = Holder::new().unwrap();
            let guarded = trace_as_a_container(holder.pid());
            let map = probe::errno(&std::fs::write(format!("/proc/{}/uid_map", holder.pid()), "0 0 1"));
            let namespace = probe::errno(&File::open(format!("/proc/{}/ns/user", holder.pid())));
            // The control: what would be without the guard.
            set_dumpable(true);
            let open = trace_as_a_container(holder.pid());
            drop(holder);
            let holder = Holder::new().unwrap();
            let again = trace_as_a_container(holder.pid());
            drop(holder);
            // SAFETY: takes no pointer.
            let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
            [guarded, map, namespace, open, again, dumpable]
        });
        assert_eq!(found.unwrap(), [libc::EPERM, 0, 0, 0, libc::EPERM, 1]);
    }

    /// Makes this process, which must have one thread only, root of a user namespace, for good.
    pub fn become_root_of(fd: BorrowedFd) -> io::Result<()> {
        setns(fd, libc::CLONE_NEWUSER)?;
        // SAFETY: raw calls with integers. Not libc's, which would also change the threads of a parent that shares
        // memory.
        cerr(unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) })?;
        // SAFETY: as above.
        cerr(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) })?;
        // A change of ids makes /proc/PID the initial namespace's root's.
        // SAFETY: as above.
        cerr(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }).map(drop)
    }

    /// Runs `work` in a child process that shares our memory and descriptors, and waits for it.
    pub fn in_child<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        struct Call<W, T> {
            work: Option<W>,
            result: Option<io::Result<T>>,
        }
        extern "C" fn run<W: FnOnce() -> io::Result<T>, T>(call: *mut libc::c_void) -> libc::c_int {
            // SAFETY: `call` is the Call below, alive and untouched by the parent, which is suspended (CLONE_VFORK).
            let call = unsafe { &mut *call.cast::<Call<W, T>>() };
            call.result = call.work.take().map(|work| work());
            0
        }
        fn entry<W: FnOnce() -> io::Result<T>, T>(_: &Call<W, T>) -> extern "C" fn(*mut libc::c_void) -> libc::c_int {
            run::<W, T>
        }

        let mut stack = vec![0; 16 * STACK];
        let mut call = Call { work: Some(work), result: None };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
        let entry = entry(&call);
        // SAFETY: the child runs `entry` on `stack` with `call`, both alive until it is gone: CLONE_VFORK suspends this
        // thread until then, so nothing here runs beside it, and thread-local data such as errno is used by one at a time.
        let pid = cerr(unsafe { libc::clone(entry, top(&mut stack), flags, (&raw mut call).cast()) }.into())?;
        reap(pid as libc::pid_t)?;
        call.result.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ECHILD)))
    }
}
