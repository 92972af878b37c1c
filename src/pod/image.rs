//! The images that a configuration's `image` lines mean.

use crate::map::cut;

/// What a runtime tells of an image (NRI 0.12.2, containerd 2.4). Each is empty where it does not.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageNames<'a> {
    /// One of its names, such as `docker.io/library/postgres:17`: chosen by whoever had it pulled.
    pub name: &'a str,
    /// The digest of its index or manifest, and that of its configuration.
    pub digests: [&'a str; 2],
}

impl ImageNames<'_> {
    /// Whether a pattern is one of the digests, or matches the name, whole or without its tag or digest.
    pub fn matches(&self, pattern: &str) -> bool {
        let name = self.name;
        // A colon before a slash is that of a port.
        let slash = name.rfind('/').unwrap_or(0);
        let repository = name[slash..].find([':', '@']).map_or(name, |end| &name[..slash + end]);
        let is_named = !name.is_empty() && (glob(pattern, name) || glob(pattern, repository));
        is_named || self.digests.contains(&pattern)
    }
}

/// A pattern with a short name written out as containerd does it (distribution/reference, ParseDockerRef).
pub fn in_full(pattern: &str) -> Result<String, String> {
    let is_hex = |c| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    match (pattern.strip_prefix("sha256:"), pattern.split_once('/')) {
        (Some(digits), _) if digits.len() != 64 || !digits.bytes().all(is_hex) => {
            Err(format!("{:?} is not sha256: and 64 digits of 0-9 and a-f", cut(pattern)))
        }
        (None, None) if !pattern.starts_with('*') => Ok(format!("docker.io/library/{pattern}")),
        (None, Some((host, _))) if host != "localhost" && !host.contains(['.', ':', '*']) => {
            Ok(format!("docker.io/{pattern}"))
        }
        _ => Ok(pattern.to_owned()),
    }
}

/// Whether `*` in the pattern can stand for something so that it is the text; in time linear in both.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let (parts, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = text.strip_prefix(first).and_then(|text| text.strip_suffix(last)) else { return false };
    parts.split('*').all(|part| text.split_once(part).map(|(_, after)| text = after).is_some())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::pod::config::PluginConfig;

    pub const POSTGRES: ImageNames<'_> = ImageNames {
        name: "docker.io/library/postgres:17",
        digests: [
            "sha256:ee6521f290b2168b6aa9e6bd8ad0e69d78ed9f6a3c0e5aef8ca9d51876a3f2c1",
            "sha256:873ed75102791e5b0b8a7fcd41606c92fcec98d56d05ead4ac5131650004c136",
        ],
    };

    #[test]
    fn patterns_of_images() {
        let counts = |pattern: &str, image| {
            let config = PluginConfig::parse(&format!("image {pattern}")).unwrap();
            config.of_image(&image).is_some()
        };
        let named = |name| ImageNames { name, ..ImageNames::default() };
        let by_digest = format!("docker.io/library/postgres@{}", POSTGRES.digests[0]);
        for pattern in [
            "docker.io/library/postgres:17",
            "docker.io/library/postgres:*",
            "docker.io/library/postgres",
            "docker.io/*",
            "*",
            "**",
            "*/postgres",
            "*/library/*:1*7",
            "postgres",
            "postgres:17",
            "library/p*g*s:17",
            POSTGRES.digests[0],
            POSTGRES.digests[1],
        ] {
            assert!(counts(pattern, POSTGRES), "{pattern}");
            // A runtime that tells nothing.
            assert!(!counts(pattern, ImageNames::default()), "{pattern}");
        }
        for pattern in [
            "docker.io/library/postgres:1",
            "docker.io/library/postgre",
            "library/*postgres*17*7",
            "quay.io/postgres:17",
            "localhost/postgres:17",
            "docker.io:5000/library/postgres:17",
            "*:18",
            "*ee6521*",
            "postgres:17*17",
            &format!("sha256:{}", "0".repeat(64)),
        ] {
            assert!(!counts(pattern, POSTGRES), "{pattern}");
        }
        assert!(counts("postgres", named(&by_digest)) && !counts("postgres:*", named(&by_digest)));
        assert!(counts("host:5000/a", named("host:5000/a:1")) && !counts("host*", named("host:5000/a")));
        // Neither the length of a name nor the stars of a pattern cost more than their sum.
        let long = format!("{}/{}", "a\u{1b}\n".repeat(500_000), "b".repeat(500_000));
        assert!(!counts(&format!("*{}c", "a*".repeat(2_000)), named(&long)));
        assert!(counts(&format!("*{}b", "a*".repeat(2_000)), named(&long)));
    }
}
