//! What a container runtime can do, by its version.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// The runtime's name and versions, for messages.
    pub runtime: String,
    /// Takes a namespace in a container's adjustment (NRI 0.10, containerd 2.2).
    pub takes_namespaces: bool,
    /// Tells who a container runs as (containerd 2.3).
    pub tells_user: bool,
}

impl RuntimeFeatures {
    /// By NRI's version where the runtime tells it (0.12 on), else by its own.
    pub fn new(name: &str, version: &str, nri: &str) -> RuntimeFeatures {
        let own = (name == "containerd").then(|| major_minor(version)).flatten();
        // A runtime that was built without the module's version says 0.0.0-unknown.
        let at_least = |nri_least, own_least| match major_minor(nri) {
            Some(v) if v > (0, 0) => v >= nri_least,
            _ => own.is_some_and(|v| v >= own_least),
        };
        let nri_text = if nri.is_empty() { String::new() } else { format!(" (NRI {nri})") };
        RuntimeFeatures {
            runtime: format!("{name} {version}{nri_text}"),
            takes_namespaces: at_least((0, 10), (2, 2)),
            tells_user: at_least((0, 12), (2, 3)),
        }
    }
}

/// `v2.3.4`, `2.2.1-k3s1` or `0.12.0` to (2, 3) and so on; None for anything else.
pub fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix('v').unwrap_or(version).split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_by_version() {
        let can = |name, version, nri| {
            let r = RuntimeFeatures::new(name, version, nri);
            (r.takes_namespaces, r.tells_user)
        };
        assert_eq!(can("containerd", "v2.3.4", "v0.12.0"), (true, true));
        assert_eq!(can("containerd", "2.2.1-k3s1", ""), (true, false));
        assert_eq!(can("containerd", "v2.2.0", "unknown"), (true, false));
        assert_eq!(can("containerd", "v2.3.4", "0.0.0-unknown"), (true, true));
        assert_eq!(can("containerd", "v2.3.4", "(devel)"), (true, true));
        assert_eq!(can("containerd", "v2.1.9", ""), (false, false));
        assert_eq!(can("containerd", "1.7.24", ""), (false, false));
        assert_eq!(can("containerd", "v3.0.0", ""), (true, true));
        assert_eq!(can("cri-o", "9.9.9", ""), (false, false));
        assert_eq!(can("cri-o", "9.9.9", "0.12.1"), (true, true));
        assert_eq!(can("containerd", "", ""), (false, false));
    }
}
