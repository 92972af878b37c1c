//! YAML and JSON as people and programs write it.

use super::*;

/// `uids / gids` of a text.
fn found(text: &str) -> String {
    let ids = scan(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    format!("{} / {}", ids.uids, ids.gids)
}

fn error(text: &str) -> String {
    scan(text).expect_err(text)
}

#[test]
fn reads_a_deployment() {
    let text = r#"# runAsUser: 1
apiVersion: apps/v1
kind: Deployment
metadata:
  name: app   # runAsUser: 2
  annotations: {note: "runAsUser: 3", 'other': 'it''s runAsUser: 4'}
spec:
  template:
    spec:
      securityContext:
        runAsUser: 10001 # the app
        runAsGroup: 10002
        fsGroup: 2000
        fsGroupChangePolicy: OnRootMismatch
        supplementalGroups: [4000, 5000,
          6000]  # 7
        seLinuxOptions: {level: "s0:c123,c456"}
      containers:
      - name: a
        securityContext: {runAsUser: 70000, runAsNonRoot: true}
      - securityContext:
          "runAsUser" : 70001
          'runAsGroup': 70002
        args: ["--runAsUser: 5", '[', "]", a#b]
        command: [sh, -c, 'x: {']
      initContainers:
      -   name: b
          securityContext:
              supplementalGroups:
              - 8000
              -   8001
              # - 9
              - 8002
              fsGroup:
                9000
---
spec: {securityContext: {runAsUser: 12, supplementalGroups: [13]}}
...
"#;
    assert_eq!(found(text), "12,10001,70000-70001 / 13,2000,4000,5000,6000,8000-8002,9000,10002,70002");
    assert_eq!(found(&text.replace('\n', "\r\n")), found(text));
    assert_eq!(found(&format!("\u{feff}{text}")), found(text));
}

#[test]
fn reads_json() {
    let text = r#"{
	"kind": "Pod", "metadata": {"annotations": {"last": "{\"runAsUser\": 1, \"fsGroup\":2}"}},
	"spec": {"securityContext":{"runAsUser":10001,"runAsGroup" : 10002 ,"fsGroup":null,
		"supplementalGroups":[4000,5000 , 6000],"x":[[1],{"runAsUser":7}]},
	"containers": [{"name": "\\", "securityContext": {"runAsUser":
		8}}]}
}
"#;
    assert_eq!(found(text), "7-8,10001 / 4000,5000,6000,10002");
    assert_eq!(found(&text.split_whitespace().collect::<String>()), found(text));
    assert_eq!(found("{\"runAsUser\":1}\n{\"runAsUser\":2}\n---\n{\"runAsUser\":3}"), "1-3 / ");
    assert_eq!(found("[{\"runAsUser\":1},{\"fsGroup\":2}]"), "1 / 2");
}

#[test]
fn text_is_no_setting() {
    for block in ["|", ">", "|-", ">+", "|2", "|2-  # runAsUser: 4", "&a |", "!!str |"] {
        let text = format!(
            "data:\n  script: {block}\n    runAsUser: 5\n\n    # no comment\n   \t\n     fsGroup: 6\n  fsGroup: 7\nrunAsUser: 8\n"
        );
        assert_eq!(found(&text), "8 / 7", "{block}");
        let items = format!("a:\n- {block}\n  runAsUser: 5\n- k: {block}\n    runAsUser: 6\n  fsGroup: 7\n");
        assert_eq!(found(&items), " / 7", "{block}");
    }
    assert_eq!(found("--- |\nrunAsUser: 5\n\n---\nrunAsUser: 6\n"), "6 / ");
    assert_eq!(found("a: |\n\n\n  runAsUser: 5"), " / ");
    // Texts that go on for lines, quoted or plain.
    assert_eq!(found("a: 'x\n  runAsUser: 5\n  it''s'\nrunAsUser: 6"), "6 / ");
    assert_eq!(found("a: \"x\n  runAsUser: 5 \\\"\n  \\\n  \"\nrunAsUser: 6"), "6 / ");
    assert_eq!(found("a: some\n  text \"of\n\n  runAsUser; 'lines\nrunAsUser: 6"), "6 / ");
    assert_eq!(found("- some\n  { text\n- runAsUser: 6"), "6 / ");
    assert_eq!(found("a:\n  some text\n  {of lines\nrunAsUser: 6"), "6 / ");
    assert_eq!(found("a: [some\n  text, # runAsUser: 1\n  {b: 'runAsUser: 2'}]\nrunAsUser: 6"), "6 / ");
    // Not these keys.
    assert_eq!(
        found("runAsUserName: 1\nxrunAsUser: 2\nrunAsUser:3\nrunasuser: 4\n{runAsUser:5}\n[runAsUser, 6]"),
        " / "
    );
    assert_eq!(found("a: runAsUser: 5"), " / ");
    // A '#' without a space before it is no comment.
    assert_eq!(found("a: x#y\nb#c: d\n'#': {e#: '#'}\nrunAsUser: 6"), "6 / ");
}

#[test]
fn maps_below_the_keys_are_no_ids() {
    let policy = "runAsUser:\n  rule: MustRunAs\n  ranges:\n  - min: 1\n    max: 5\nfsGroup: {type: MustRunAs, ranges: [{min: 1}]}\n\
                  supplementalGroups:\n- a: 5\nrunAsGroup:\n  type: integer\n  list:\n  - 7\n";
    assert_eq!(found(policy), " / ");
    assert_eq!(found("runAsUser:\nfsGroup: 5\nother:\n- 6\n"), " / 5");
    assert_eq!(found("supplementalGroups:\n  other:\n  - 5\n"), " / ");
}

#[test]
fn reads_numbers_as_kubernetes_does() {
    for (text, id) in [
        ("0", "0"),
        ("+5", "5"),
        ("0x1F", "31"),
        ("0o17", "15"),
        ("0755", "493"),
        ("0b11", "3"),
        ("1_000", "1000"),
        ("4294967294", "4294967294"),
        ("!!int 5", "5"),
        ("&a 5", "5"),
        ("\t5\t# x", "5"),
        ("null", ""),
        ("~", ""),
        ("", ""),
        ("# 5", ""),
    ] {
        assert_eq!(found(&format!("runAsUser: {text}")), format!("{id} / "), "{text}");
        assert_eq!(found(&format!("{{runAsUser: {text}\n}}")), format!("{id} / "), "{text}");
    }
    for text in ["5.0", "1e3", "08", "x", "0x", "_", "5 6", "true", "yes", "$(UID)", "-", "++5", "5s"] {
        assert_eq!(
            error(&format!("a:\n- runAsUser: {text}")),
            format!("line 2: runAsUser is {text:?}, not a whole number")
        );
    }
    for text in ["-1", "4294967295", "4294967296", "99999999999999999999", "-0"] {
        let why = format!("line 1: fsGroup is {text:?}, not an id (0-4294967294)");
        assert_eq!(error(&format!("fsGroup: {text}")), why);
        assert_eq!(error(&format!("{{fsGroup: {text}}}")), why);
    }
    assert_eq!(
        error("runAsUser: 5\nsupplementalGroups:\n- 1\n-  x\n"),
        "line 4: supplementalGroups is \"x\", not a whole number"
    );
    assert_eq!(error("supplementalGroups: [1,\n\n x]"), "line 3: supplementalGroups is \"x\", not a whole number");
}

#[test]
fn follows_anchors_of_numbers() {
    assert_eq!(
        found("x: &id 10001\nrunAsUser: *id\nrunAsGroup: &g 5\nfsGroup: *g\nsupplementalGroups: [*id, &h 6, *h]"),
        "10001 / 5-6,10001"
    );
    assert_eq!(
        found("a: &c {runAsUser: 5}\nb: *c\nd: &e\n  fsGroup: 6\n<<: *e\nsupplementalGroups: &f\n- 7\n"),
        "5 / 6-7"
    );
    assert_eq!(
        error("supplementalGroups: &f [1]\nb:\n  supplementalGroups: *f"),
        "line 3: supplementalGroups is \"*f\", which names no number above"
    );
}

#[test]
fn strings_and_templates_are_refused() {
    let string = |key, text| {
        format!("line 1: {key} is a string, {text:?}, and Kubernetes takes only numbers: remove the quotes")
    };
    assert_eq!(error("runAsUser: \"10001\""), string("runAsUser", "10001"));
    assert_eq!(error("{\"fsGroup\": '5'}"), string("fsGroup", "5"));
    assert_eq!(error("supplementalGroups: [1, \"2\"]"), string("supplementalGroups", "2"));
    assert_eq!(error("a:\nrunAsUser: |\n  5"), "line 2: runAsUser is text, not a number");
    let template = |line, text| format!("line {line}: a template, {text:?}: render the chart first, helm template");
    assert_eq!(error("a: 1\nrunAsUser: {{ .Values.uid }}"), template(2, "{{ .Values.uid }}"));
    assert_eq!(error("a: 1\n\n{{- if .Values.x }}\n"), template(3, "{{- if .Values.x }}"));
    assert_eq!(error("  {% if x %}"), template(1, "{% if x %}"));
    assert_eq!(error("supplementalGroups: [{{ x }}]"), template(1, "{{ x }}]"));
    // Where it is text, it is nobody's business.
    assert_eq!(found("a: x{{ y }}\nb: '{{ z }}'\nc: |\n  {{ z }}\n# {{ z }}\nrunAsUser: 5"), "5 / ");
}

#[test]
fn damaged_text_is_told() {
    assert_eq!(error("a: [1\n\n"), "line 1: the bracket does not close");
    assert_eq!(error("a:\n- 'x\n\n"), "line 2: the quote does not end");
    assert_eq!(error("\"x\\"), "line 1: the quote does not end");
    assert_eq!(error("a: [1}"), "line 1: '}' closes nothing");
    assert_eq!(error("{a: 1} {runAsUser: 5}"), "line 1: \"{runAsUser: 5}\" follows a value");
    assert_eq!(error("a: 'x' y"), "line 1: \"y\" follows a value");
    assert_eq!(error("a\nb\0"), "line 2: a NUL byte");
    assert_eq!(error(&"[".repeat(1_000_000)), "line 1: brackets in brackets, over 64 deep");
    let many: String = (0..=65_536).map(|i| format!("- runAsUser: {i}\n")).collect();
    assert_eq!(error(&many), "line 65537: over 65536 ids");
    // No deep recursion, and no long search.
    assert_eq!(found(&"a: ".repeat(500_000)), " / ");
    assert_eq!(found(&"- ".repeat(500_000)), " / ");
    assert_eq!(found(&"x: &a 1\n".repeat(200_000)), " / ");
    assert_eq!(found(""), " / ");
}

#[test]
fn reads_files() {
    let name = std::env::temp_dir().join(format!("uid-nri-plugin-manifest-{}", std::process::id()));
    std::fs::write(&name, "runAsUser: 5\n").unwrap();
    let ids = read(&name);
    std::fs::write(&name, b"\xff\xfe").unwrap();
    let binary = read(&name);
    let big = File::create(&name).and_then(|file| file.set_len(MAX_SIZE + 1)).map(|()| read(&name));
    std::fs::remove_file(&name).unwrap();
    assert_eq!(ids.unwrap().uids.to_string(), "5");
    assert_eq!(binary.unwrap_err(), "not UTF-8");
    assert_eq!(big.unwrap().unwrap_err(), "over 16777216 bytes");
    assert!(read(Path::new("/nonexistent")).unwrap_err().contains("os error 2"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(runAsUser|fsGroup|supplementalGroups|[-:?#|>&*!{}\\[\\],'\"\\\\ \\n\\ta0é5%.~]|: |\\n- |---\\n){0,40}") {
        let _ = scan(&text);
    }

    /// However a map is laid out, the ids are found.
    #[test]
    fn layouts_agree(user in 0..=MAX_ID, groups in proptest::collection::vec(0..=MAX_ID, 1..5)) {
        let list: Vec<String> = groups.iter().map(u32::to_string).collect();
        let items: String = list.iter().map(|g| format!("    - {g}\n")).collect();
        let (flow, json) = (list.join(", "), list.join(","));
        let expected = Ranges::new(groups.iter().map(|g| *g..=*g).collect());
        for text in [
            format!("a:\n  b:\n    supplementalGroups:\n{items}    runAsUser: {user}\n"),
            format!("a:\n- supplementalGroups: [{flow}]\n  runAsUser: {user} # x\n"),
            format!("a: {{runAsUser: {user}, supplementalGroups: [{flow}]}}"),
            format!("{{\"a\":[{{\"supplementalGroups\":[{json}],\"runAsUser\":{user}}}]}}"),
        ] {
            let ids = scan(&text).unwrap();
            proptest::prop_assert_eq!(ids.uids.ids().collect::<Vec<_>>(), vec![user]);
            proptest::prop_assert_eq!(&ids.gids, &expected);
        }
    }
}
