//! YAML and JSON as people and programs write it.

use super::*;

/// `uids / gids` of a text.
fn found(text: &str) -> String {
    let ids = scan(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    format!("{} / {}", of(&ids, false), of(&ids, true))
}

fn of(ids: &[Id], group: bool) -> Ranges {
    Ranges::new(ids.iter().filter(|id| id.group == group).map(|id| id.id..=id.id).collect())
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
    assert_eq!(found(&text.replace('\n', "\r")), found(text));
    assert_eq!(found(&format!("\u{feff}{}", text.replace("---\n", "---\n\u{feff}"))), found(text));
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
        error("supplementalGroups: &f {a: 1}\nb:\n  supplementalGroups: *f"),
        "line 3: supplementalGroups is \"*f\", which names no number above"
    );
}

#[test]
fn follows_anchors_of_lists() {
    assert_eq!(found("a: &f [1, 2]\nb:\n  supplementalGroups: *f\n  runAsUser: 3"), "3 / 1-2");
    assert_eq!(found("a: &f\n- 1\n- 2 # x\n-\n  3\nb: 4\nsupplementalGroups: *f\n"), " / 1-3");
    assert_eq!(
        found("a:\n  b: &f\n    - 1\n    - &g 2\n  c: [5]\nd: 6\nsupplementalGroups: *f\nrunAsUser: *g"),
        "2 / 1-2"
    );
    assert_eq!(found("{a: &f [1, [9], 2], b: {supplementalGroups: *f}, supplementalGroups: [*f, 3]}"), " / 1-3,9");
    assert_eq!(found("supplementalGroups: &f\n- 7\n---\nsupplementalGroups: *f"), " / 7");
    let many = "x: &a [".to_owned() + &"1,".repeat(100_000) + "]\n";
    assert_eq!(error(&(many + "supplementalGroups: [*a, *a]")), "line 2: over 65536 ids");
}

#[test]
fn reads_json_patches() {
    let patch = "- op: replace\n  path: /spec/template/spec/securityContext/runAsUser\n  value: 10001 # x\n\
                 - op: add\n  path: '/spec/securityContext/supplementalGroups/-'\n  value: 5\n\
                 - value: [6, 7]\n  op: add\n  path: /spec/securityContext/x\n\
                 - op: add\n  path: \"/spec/securityContext/supplementalGroups\"\n  value:\n  - 8\n  - 9\n\
                 - op: add\n  path: /metadata/labels/runAsUser2\n  value: 10\n\
                 - value: 11 # x\n  op: add\n  path: /spec/containers/0/securityContext/runAsUser\n\
                 - op: add\n  path: /spec/securityContext\n  value: {fsGroup: 12}\n\
                 - op: remove\n  path: /spec/securityContext/fsGroup\n- value: 13\n";
    assert_eq!(found(patch), "11,10001 / 5,8-9,12");
    let kustomization =
        format!("patches:\n- target: {{kind: Pod}}\n  patch: |-\n    {}\n", patch.replace('\n', "\n    "));
    assert_eq!(found(&kustomization), found(patch));
    assert_eq!(found("patch: |\n  kind: Pod\n  spec:\n    runAsUser: 5\nfsGroup: 6"), "5 / 6");
    assert_eq!(found("patch: |\n  --- a\n  runAsUser: 5\nfsGroup: 6"), " / 6");
    let json = r#"[{"op":"add","path":"/a/runAsUser","value":5},{"value":6,"path":"/a/fsGroup"},
        {"op":"add","path":"/a/supplementalGroups","value":[7]},{"path":"runAsUser","value":8},
        {"path":"/metadata/annotations/uid-mapper.noderesource.dev~1pod","value":"claim-uids=9"}]"#;
    assert_eq!(found(json), "5,9 / 6-7");
    assert_eq!(
        error("[{\"path\":\"/runAsUser\",\"value\":\"5\"}]").split_once(',').unwrap().0,
        "line 1: runAsUser is a string"
    );
}

#[test]
fn reads_our_annotation() {
    let key = ANNOTATION;
    let claims = "inject=always claim-uids=70000,70002-70003 claim-gids=5";
    let ids = "70000,70002-70003 / 5";
    for text in [
        format!("metadata:\n  annotations:\n    {key}: {claims}\n    other: claim-uids=1\n"),
        format!("annotations:\n  {key}/pod: \"{claims}\"\nclaim-uids: 5\n"),
        format!("{{\"annotations\":{{\"{key}/container.a\":\"{claims}\"}}}}"),
        format!("annotations:\n  {key}: >-\n    {}\n", claims.replace(' ', "\n    ")),
        format!("annotations:\n  {key}: {}\n  other: 5", claims.replace(' ', "\n    ")),
    ] {
        assert_eq!(found(&text), ids, "{text}");
    }
    assert_eq!(found(&format!("a: {{{key}/uid-mappings: claim-uids=1, {key}/podx: claim-uids=1}}")), " / ");
    assert_eq!(error(&format!("a:\n  {key}: claim-uids=x")), "line 2: claim-uids= \"x\" is not an id (0-4294967294)");
}

#[test]
fn says_where_ids_are() {
    let ids = scan("# x\nspec:\n  runAsUser: 5\n  supplementalGroups:\n  - 6\n  - 7\n").unwrap();
    let told: Vec<_> = ids.iter().map(|id| (id.id, id.group, id.line)).collect();
    assert_eq!(told, [(5, false, 3), (6, true, 5), (7, true, 6)]);
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
    // In quotes, and where quotes in it end those around.
    assert_eq!(error("a:\nrunAsUser: \"{{ .Values.uid }}\""), template(2, "{{ .Values.uid }}\""));
    assert_eq!(error("supplementalGroups:\n- '{{ .x }}'"), template(2, "{{ .x }}'"));
    assert_eq!(error("name: \"{{ include \"x\" . }}\"\n"), template(1, "{{ include \"x\" . }}\""));
    assert_eq!(error("a: 'x\nb: {{ 'y }}\n"), template(2, "{{ 'y }}"));
    assert_eq!(error("a: '{{ x }}'\nrunAsUser: '5'"), string("runAsUser", "5").replace("line 1", "line 2"));
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
    assert_eq!(ids.unwrap(), [Id { id: 5, group: false, line: 1 }]);
    assert_eq!(binary.unwrap_err(), "not UTF-8: if it is UTF-16, as PowerShell writes it, convert it");
    assert_eq!(big.unwrap().unwrap_err(), "over 16777216 bytes");
    assert!(read(Path::new("/nonexistent")).unwrap_err().contains("os error 2"));
}

#[test]
fn finds_the_files_of_a_folder() {
    let top = std::env::temp_dir().join(format!("uid-nri-plugin-manifests-{}", std::process::id()));
    std::fs::create_dir_all(top.join("b/c")).unwrap();
    for name in ["b/c/1.yml", "a.json", "b/2.yaml", "README.md", "z"] {
        std::fs::write(top.join(name), "").unwrap();
    }
    std::os::unix::fs::symlink("..", top.join("b/up")).unwrap();
    std::os::unix::fs::symlink("z", top.join("link.yaml")).unwrap();
    let mut found = Vec::new();
    files(&top, &mut found).unwrap();
    files(Path::new("-"), &mut found).unwrap();
    std::fs::remove_dir_all(&top).unwrap();
    let expected = ["a.json", "b/2.yaml", "b/c/1.yml", "link.yaml"].map(|name| top.join(name));
    assert_eq!(found, [&expected[..], &["-".into()]].concat());
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(runAsUser|fsGroup|supplementalGroups|path|value|patch|/runAsUser|uid-mapper.noderesource.dev|claim-uids=|[-:?#|>&*!{}\\[\\],'\"\\\\ \\n\\ta0é5%.~]|: |\\n- |---\\n){0,40}") {
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
            proptest::prop_assert_eq!(of(&ids, false).ids().collect::<Vec<_>>(), vec![user]);
            proptest::prop_assert_eq!(&of(&ids, true), &expected);
        }
    }
}
