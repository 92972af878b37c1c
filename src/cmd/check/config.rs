//! containerd's configuration, as far as it concerns the plugin. A small reader of TOML, line by line: what it does not
//! know it passes over.

/// More than this is nobody's configuration; the rest is not looked at.
pub const MAX_BYTES: u64 = 1 << 20;
/// Deeper keys than this are none of ours.
const MAX_DEPTH: usize = 16;

/// What concerns us of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerdConfig {
    pub disable: Option<bool>,
    /// NRI's `disable_connections`: plugins that containerd has not launched may not connect.
    pub no_connections: bool,
    pub plugin_path: Option<String>,
    pub socket_path: Option<String>,
    /// The built-in validator is on, and refuses changed namespaces.
    pub refuses_namespaces: bool,
    /// `root`, where layers and snapshots are.
    pub root: Option<String>,
    /// `BinaryName` of the runtimes, each once.
    pub binaries: Vec<String>,
}

const NRI: &str = "io.containerd.nri.v1.nri";

impl ContainerdConfig {
    pub fn parse(text: &str) -> ContainerdConfig {
        let mut config = ContainerdConfig::default();
        let (mut enabled, mut refuses) = (false, false);
        entries(text, &mut |path, value| match path {
            [plugins, nri, rest @ ..] if plugins == "plugins" && nri == NRI => {
                let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
                match rest[..] {
                    ["disable"] => config.disable = Some(value == "true"),
                    ["disable_connections"] => config.no_connections = value == "true",
                    ["plugin_path"] => config.plugin_path = string(value),
                    ["socket_path"] => config.socket_path = string(value),
                    ["default_validator", "enable"] => enabled = value == "true",
                    ["default_validator", "reject_namespace_adjustment"] => refuses = value == "true",
                    _ => {}
                }
            }
            [root] if root == "root" => config.root = string(value),
            [.., last] if last == "BinaryName" => {
                let name = string(value).filter(|name| !name.is_empty() && !config.binaries.contains(name));
                config.binaries.extend(name);
            }
            _ => {}
        });
        config.refuses_namespaces = enabled && refuses;
        config
    }
}

/// Calls `each` with the whole key and the value of every `key = value`.
fn entries(text: &str, each: &mut dyn FnMut(&[String], &str)) {
    let mut table = Vec::new();
    // The quotes that end a text of several lines.
    let mut within: Option<&str> = None;
    for line in text.lines() {
        if let Some(end) = within {
            within = within.filter(|_| !line.contains(end));
            continue;
        }
        let line = outside_quotes(line, '#').map_or(line, |end| &line[..end]).trim();
        if let Some(header) = line.strip_prefix('[') {
            table = keys(header.trim_start_matches('[').trim_end_matches(']'));
            continue;
        }
        let Some((key, value)) = split(line, '=') else { continue };
        within = ["\"\"\"", "'''"].into_iter().find(|q| value.starts_with(q) && !value[3..].contains(q));
        entry(&table, key, value, each);
    }
}

fn entry(table: &[String], key: &str, value: &str, each: &mut dyn FnMut(&[String], &str)) {
    let path: Vec<String> = table.iter().cloned().chain(keys(key)).collect();
    if path.len() == table.len() || path.len() > MAX_DEPTH {
        return;
    }
    match value.strip_prefix('{').and_then(|inline| inline.strip_suffix('}')) {
        Some(mut inline) => {
            while !inline.trim().is_empty() {
                let (first, rest) = split(inline, ',').unwrap_or((inline, ""));
                if let Some((key, value)) = split(first, '=') {
                    entry(&path, key, value, each);
                }
                inline = rest;
            }
        }
        None => each(&path, value),
    }
}

/// The parts of a dotted key, without their quotes.
fn keys(mut text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    while !text.trim().is_empty() && parts.len() <= MAX_DEPTH {
        let (first, rest) = split(text, '.').unwrap_or((text.trim(), ""));
        parts.push(string(first).unwrap_or_else(|| first.to_owned()));
        text = rest;
    }
    parts
}

/// What is before and after the first `at` that is not in quotes or braces.
fn split(text: &str, at: char) -> Option<(&str, &str)> {
    let end = outside_quotes(text, at)?;
    Some((text[..end].trim(), text[end + at.len_utf8()..].trim()))
}

/// Where the first such character is.
fn outside_quotes(text: &str, wanted: char) -> Option<usize> {
    let (mut quote, mut escaped, mut braces) = (None, false, 0usize);
    for (at, c) in text.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(q) if q == c => quote = None,
            Some(_) => {}
            None if c == wanted && braces == 0 => return Some(at),
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '{' => braces += 1,
            None if c == '}' => braces = braces.saturating_sub(1),
            None => {}
        }
    }
    None
}

/// The text between quotes. Escapes stay as they are: no path or name of ours has one.
fn string(value: &str) -> Option<String> {
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let rest = &value[1..];
    rest.find(quote).map(|end| rest[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_versions() {
        let v3 = "version = 3\nroot = '/data/containerd'\n\
            # [plugins.\"io.containerd.nri.v1.nri\"]\n\
            [plugins]\n\
            [plugins.'io.containerd.nri.v1.nri']  # NRI\n\
              disable = true # yes\n\
              socket_path = '/run/nri#1.sock'\n\
              plugin_path = \"/opt/nri/plugins\"\n\
              [plugins.'io.containerd.nri.v1.nri'.default_validator]\n\
                enable = true\n\
                reject_namespace_adjustment = true\n\
            [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc.options]\n\
              BinaryName = \"/usr/local/sbin/runc\"\n\
            [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.crun.options]\n\
              BinaryName = 'crun'\n\
            disable = false\n";
        let expected = ContainerdConfig {
            disable: Some(true),
            no_connections: false,
            plugin_path: Some("/opt/nri/plugins".into()),
            socket_path: Some("/run/nri#1.sock".into()),
            refuses_namespaces: true,
            root: Some("/data/containerd".into()),
            binaries: vec!["/usr/local/sbin/runc".into(), "crun".into()],
        };
        assert_eq!(ContainerdConfig::parse(v3), expected);
        let v2 = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n\
            BinaryName = \"/usr/bin/runc\"\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable=false\n\
            disable_connections = true";
        let expected = ContainerdConfig {
            disable: Some(false),
            no_connections: true,
            binaries: vec!["/usr/bin/runc".into()],
            ..ContainerdConfig::default()
        };
        assert_eq!(ContainerdConfig::parse(v2), expected);
    }

    #[test]
    fn reads_other_spellings() {
        for text in [
            "plugins.\"io.containerd.nri.v1.nri\".default_validator = {enable = true, reject_namespace_adjustment = true}",
            "[plugins]\n\"io.containerd.nri.v1.nri\" = { disable = false, default_validator = { enable = true, \
             reject_oci_hook_adjustment = false, reject_namespace_adjustment = true } }",
            "[plugins.\"io.containerd.nri.v1.nri\"]\ndefault_validator.enable = true\n\
             default_validator.reject_namespace_adjustment = true # \"",
        ] {
            assert!(ContainerdConfig::parse(text).refuses_namespaces, "{text}");
        }
        for text in [
            "[plugins.\"io.containerd.nri.v1.nri\".default_validator]\nenable = true",
            "[plugins.\"io.containerd.nri.v1.nri\".default_validator]\nreject_namespace_adjustment = true",
            "[plugins.\"io.containerd.nri.v1.nri\".default_validator]\nx = '''\nenable = true\n\
             reject_namespace_adjustment = true\n'''",
            "[other.\"io.containerd.nri.v1.nri\".default_validator]\nenable = true\nreject_namespace_adjustment = true",
        ] {
            assert!(!ContainerdConfig::parse(text).refuses_namespaces, "{text}");
        }
    }

    #[test]
    fn passes_over_what_is_no_toml() {
        for text in
            ["", "[", "]", "=", "[[[\n=\n\"", "a = \"", "a = {", "{=}", "'''", "a = '''", "é = é", "[é.é]\né='é"]
        {
            assert_eq!(ContainerdConfig::parse(text), ContainerdConfig::default(), "{text}");
        }
        assert_eq!(ContainerdConfig::parse(&"[a.".repeat(100_000)), ContainerdConfig::default());
        assert_eq!(ContainerdConfig::parse(&"{a=".repeat(100_000)), ContainerdConfig::default());
        assert_eq!(
            ContainerdConfig::parse(&format!("x={}1{}", "{=".repeat(9_000), "}".repeat(9_000))),
            ContainerdConfig::default()
        );
        assert_eq!(
            ContainerdConfig::parse(&format!("x={}1{}", "{a=".repeat(9_000), "}".repeat(9_000))),
            ContainerdConfig::default()
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[\\[\\]{}\"'.=#,\\\\a\u{e9} \\n]{0,80}") {
            let _ = ContainerdConfig::parse(&text);
        }
    }
}
