//! Capabilities of threads (`capget(2)`).

use std::io;

use super::cerr;

#[repr(C)]
struct Header {
    version: u32,
    tid: libc::c_int,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The effective capabilities of a thread, by bit; 0: of this one. ESRCH if there is none of this number.
pub fn effective(tid: u32) -> io::Result<u64> {
    /// _LINUX_CAPABILITY_VERSION_3: two words of each set.
    const VERSION: u32 = 0x2008_0522;
    let mut header = Header { version: VERSION, tid: tid as libc::c_int };
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 takes a header and two data structs, all ours.
    cerr(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[1].effective) << 32 | u64::from(data[0].effective))
}
