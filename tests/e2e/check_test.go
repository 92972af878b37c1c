package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// "uid-nri-plugin check" in real nodes.

// checkProgram is where the nodes have the program when no containerd is to launch it.
const checkProgram = "/opt/tests/uid-nri-plugin"

// checked is the document of check --json.
type checked struct {
	Checks []struct {
		Name, State, Found string
		Remedy             *string
	}
	State string
}

var codes = map[string]int{"ok": 0, "warning": 1, "problem": 2}

// runCheck runs the program in the node, which may exit with 1 or 2.
func (s *site) runCheck(t *testing.T, program string, args ...string) (string, int) {
	t.Helper()
	line := append([]string{"-c", `"$@"; echo "exit $?"`, "sh", program, "check"}, args...)
	out, err := s.Run("sh", line...)
	must(t, err)
	end := strings.LastIndex(out, "exit ")
	var code int
	if _, err := fmt.Sscanf(out[max(0, end):], "exit %d", &code); err != nil {
		t.Fatalf("no exit code in %q", out)
	}
	return out[:end], code
}

// check runs check with and without --json, and sees that both and the exit code agree.
func (s *site) check(t *testing.T) checked {
	t.Helper()
	binary, err := pluginBinary()
	must(t, err)
	must(t, s.CopyIn(binary, checkProgram))
	document, code := s.runCheck(t, checkProgram, "--json")
	var c checked
	if err := json.Unmarshal([]byte(document), &c); err != nil {
		t.Fatalf("%v: %s", err, document)
	}
	text, textCode := s.runCheck(t, checkProgram)
	t.Logf("%s:\n%s", s.Name, text)
	equal(t, "exit code of the text", textCode, code)
	equal(t, "exit code", code, codes[c.State])
	worst, at := 0, 0
	var names []string
	for _, f := range c.Checks {
		names = append(names, f.Name)
		worst = max(worst, codes[f.State])
		line := fmt.Sprintf("%-8s %-11s ", f.State, f.Name)
		found := strings.Index(text[at:], line)
		if found < 0 {
			t.Errorf("the text has no line %q after byte %d", line, at)
		} else {
			at += found + len(line)
		}
		if (f.State == "ok") != (f.Remedy == nil) {
			t.Errorf("%s is %s, with remedy %v", f.Name, f.State, f.Remedy)
		}
		if f.Remedy != nil {
			// Every remedy can be pasted.
			if out, err := exec.Command("sh", "-n", "-c", *f.Remedy).CombinedOutput(); err != nil {
				t.Errorf("the remedy of %s: %s", f.Name, out)
			}
		}
	}
	equal(t, "names", strings.Join(names, " "), "ids root sandboxes kernel containerd kubelet plugin runtime others journald cgroup")
	equal(t, "the worst state", c.State, map[int]string{0: "ok", 1: "warning", 2: "problem"}[worst])
	for line := range strings.Lines(text) {
		if len(line) > 81 {
			t.Errorf("wider than 80 columns: %s", line)
		}
	}
	return c
}

// states fails unless all states are as given; what is not given is ok. What the machine delegates decides of cgroup.
func (c checked) states(t *testing.T, s *site, want map[string]string) {
	t.Helper()
	controllers := " " + strings.TrimSpace(s.ReadFile("/sys/fs/cgroup/cgroup.controllers")) + " "
	want = maps.Clone(want)
	if want == nil {
		want = map[string]string{}
	}
	for _, needed := range []string{" cpu ", " memory ", " pids "} {
		if !strings.Contains(controllers, needed) {
			want["cgroup"] = "warning"
		}
	}
	for _, f := range c.Checks {
		expected := want[f.Name]
		if expected == "" {
			expected = "ok"
		}
		if f.State != expected {
			t.Errorf("%s is %s, want %s: %s", f.Name, f.State, expected, f.Found)
		}
		delete(want, f.Name)
	}
	for name := range want {
		t.Errorf("nothing was said of %s", name)
	}
}

func (c checked) found(t *testing.T, name string) (found, remedy string) {
	t.Helper()
	for _, f := range c.Checks {
		if f.Name == name {
			if f.Remedy != nil {
				remedy = *f.Remedy
			}
			return f.Found, remedy
		}
	}
	t.Fatalf("nothing was said of %s", name)
	return "", ""
}

func TestCheckGoodNode(t *testing.T) {
	s := equippedSite(t, careful)
	before := s.traces(t)
	c := s.check(t)
	c.states(t, s, nil)
	found, _ := c.found(t, "ids")
	equal(t, "ids", found, "0-2043, 65532-65535: a pool of 2044")
	found, _ = c.found(t, "containerd")
	contains(t, "containerd", found, "namespaces can be adjusted")
	version, err := s.Run("containerd", "--version")
	must(t, err)
	contains(t, "the version", version, strings.Fields(found)[0])
	contains(t, "NRI's version", found, "(NRI 0.12.")
	found, _ = c.found(t, "plugin")
	contains(t, "plugin", found, lab.PluginFile+"; pid ")
	contains(t, "the pid", s.ReadFile("/proc/"+strings.Fields(strings.Split(found, "pid ")[1])[0]+"/cmdline"), "uid-mapper")
	equal(t, "what a check leaves behind", s.traces(t), before)
	// --host, in a node, where a set-user-id program of the machine's root reads as nobody's.
	var host checked
	must(t, json.Unmarshal([]byte(must1(t)(s.Run("sh", "-c", checkProgram+" check --host --json; true"))), &host))
	equal(t, "the first finding", host.Checks[0].Name, "place")
	owner, err := s.Run("stat", "-c", "%u", "/usr/bin/newuidmap")
	must(t, err)
	equal(t, "the owner of newuidmap", owner, "65534\n")
	found, _ = host.found(t, "newuidmap")
	equal(t, "newuidmap", found, "/usr/bin/newuidmap; /usr/bin/newgidmap")
	// A pod's namespaces do not confuse it, and it not them.
	r := start(t, s.pod(t, lab.Pod{}), highUser)
	s.check(t).states(t, s, nil)
	equal(t, "id -u", sh(t, r, "id -u"), "10001")
}

// traces are the node's mounts, files that a check might make, and processes.
func (s *site) traces(t *testing.T) string {
	t.Helper()
	out, err := s.Run("sh", "-c", `cut -d' ' -f5- /proc/1/mountinfo | sort; find /run/uid-nri-plugin /opt /tmp 2>&1 | grep -v /opt/tests
		for p in /proc/[0-9]*; do [ "$(stat -c %U "$p")" ] && tr '\0' ' ' <"$p/cmdline"; done | grep -c 'uid-nri-plugin chec[k]'; true`)
	must(t, err)
	return out
}

func TestCheckWithoutPlugin(t *testing.T) {
	s := bareSite(t, careful)
	c := s.check(t)
	c.states(t, s, map[string]string{"plugin": "problem"})
	found, remedy := c.found(t, "plugin")
	equal(t, "found", found, "not in /opt/nri/plugins")
	contains(t, "remedy", remedy, "install -Dm755 "+checkProgram+" "+lab.PluginFile+"\n")
	equal(t, "the run folder", strings.TrimSpace(must1(t)(s.Run("sh", "-c", "ls /run/uid-nri-plugin 2>/dev/null; true"))), "")
}

func must1(t *testing.T) func(string, error) string {
	return func(text string, err error) string {
		t.Helper()
		must(t, err)
		return text
	}
}

// The remedy is what makes it good.
func TestCheckRemedy(t *testing.T) {
	s := ownSite(t, careful, options{})
	_, remedy := s.check(t).found(t, "plugin")
	install, restart, _ := strings.Cut(remedy, "\n")
	equal(t, "the second line", restart, "systemctl restart containerd")
	_, err := s.Run("sh", "-c", install)
	must(t, err)
	c := s.check(t)
	c.states(t, s, map[string]string{"plugin": "warning"})
	found, _ := c.found(t, "plugin")
	contains(t, "before the restart", found, "no instance acts")
	must(t, s.RestartContainerd())
	s.check(t).states(t, s, nil)
}

func TestCheckPlainMap(t *testing.T) {
	s := equippedSite(t, plain)
	c := s.check(t)
	c.states(t, s, map[string]string{"ids": "warning", "sandboxes": "problem"})
	_, remedy := c.found(t, "sandboxes")
	first, rest, _ := strings.Cut(remedy, "\n")
	equal(t, "remedy", first, "podman run --uidmap 0:0:2044 --uidmap 65532:2044:4 --gidmap 0:0:2044 --gidmap 65532:2044:4 IMAGE  # on the host")
	contains(t, "the rest of it", rest, `ENTRYPOINT ["uid-nri-plugin", "node", "--"`)
}

// The one line that gives 65534 to containers, whatever the configuration has.
func TestCheckNobody(t *testing.T) {
	s := ownSite(t, plain, options{plugin: true})
	group := func(pod string) string {
		r := start(t, s.pod(t, lab.Pod{Name: pod}), lab.Container{Image: tools})
		return sh(t, r, "touch /tmp/f; chown 65534:65534 /tmp/f 2>/dev/null; stat -c %u:%g /tmp/f")
	}
	equal(t, "the control", group("control"), "0:0")
	for _, elsewhere := range []string{"uid-nri-plugin", "systemctl"} {
		must(t, s.WriteFile("/opt/stub/"+elsewhere, []byte("#!/bin/sh\n"), 0o755))
	}
	for name, config := range map[string]string{"none": "", "set": "\tinject = needed # as ever\nlog-level = debug\n"} {
		if config != "" {
			must(t, s.WriteFile(lab.PluginConfig, []byte(config), 0o644))
		}
		c := s.check(t)
		c.states(t, s, map[string]string{"ids": "warning", "sandboxes": "problem"})
		found, remedy := c.found(t, "ids")
		contains(t, "ids", found, "65534 is missing: in pods, Debian's sshd")
		contains(t, "remedy", remedy, "inject = all")
		_, err := s.Run("sh", "-c", "PATH=/opt/stub:$PATH\n"+remedy)
		must(t, err)
		must(t, s.RestartContainerd())
		c = s.check(t)
		c.states(t, s, map[string]string{"sandboxes": "problem"})
		found, _ = c.found(t, "ids")
		contains(t, "ids", found, "inject = all gives it to containers")
		equal(t, name, group(name), "65534:65534")
		must(t, s.WriteFile(lab.PluginConfig, nil, 0o644))
		must(t, s.RestartContainerd())
	}
}

func TestCheckSupervised(t *testing.T) {
	s := ready(t)(bothStock())
	c := s.check(t)
	c.states(t, s, map[string]string{"ids": "warning"})
	found, _ := c.found(t, "containerd")
	contains(t, "containerd", found, "under supervise")
	found, _ = c.found(t, "sandboxes")
	contains(t, "sandboxes", found, "folded by supervise")

	// Below supervise itself, where its own listener is no stranger's; and below a stranger's.
	out, err := s.Run("sh", "-c", checkProgram+" supervise -- "+checkProgram+" check | grep -A1 others")
	must(t, err)
	contains(t, "under supervise", out, "ok       others ")

	// As node has it: the plugin is no program of containerd's, and has no filter.
	apart := ownSite(t, careful, options{supervise: true})
	_, err = apart.StartDaemon("external", lab.Supervisor)
	must(t, err)
	apart.registered(t, 1)
	c = apart.check(t)
	c.states(t, apart, nil)
	found, _ = c.found(t, "plugin")
	contains(t, "plugin", found, "none in /opt/nri/plugins, and none needed there; pid ")

	alone := ready(t)(foldedStock())
	c = alone.check(t)
	c.states(t, alone, map[string]string{"ids": "warning", "plugin": "warning"})
}

// A process called kubelet is all that check looks for; what it judges is whether its calls are folded.
func TestCheckKubelet(t *testing.T) {
	s := ownSite(t, careful, options{plugin: true})
	found, _ := s.check(t).found(t, "kubelet")
	equal(t, "without one", found, "none runs here")
	const kubelet = "/opt/tests/kubelet"
	must(t, s.CopyIn("/usr/bin/sleep", kubelet))
	prepare := ""
	run := func(want, state string, argv ...string) (remedy string) {
		t.Helper()
		d, err := s.StartDaemon("kubelet", append(argv, kubelet, "60")...)
		must(t, err)
		must(t, lab.Await(5*time.Second, "a process of that name", func() bool {
			_, err := s.Run("sh", "-c", "grep -qx kubelet /proc/[0-9]*/comm")
			return err == nil
		}))
		_, err = s.Run("sh", "-c", prepare)
		must(t, err)
		c := s.check(t)
		c.states(t, s, map[string]string{"kubelet": state})
		found, remedy := c.found(t, "kubelet")
		contains(t, strings.Join(argv, " "), found, want)
		_, err = s.Run("sh", "-c", "grep -lx kubelet /proc/[0-9]*/comm | cut -d/ -f3 | xargs kill -9")
		must(t, err)
		_, err = d.Wait(5 * time.Second)
		must(t, err)
		return remedy
	}
	remedy := run("not under supervise: pods with an unmapped runAsUser and a service account token do not start", "problem", "env")
	run("; under supervise", "ok", checkProgram, "supervise", "--")
	// Not root's, or another node's.
	for _, other := range []string{"setpriv --reuid 1000 --regid 1000 --clear-groups", "unshare -m", "unshare -p -f"} {
		run("none runs here", "ok", strings.Fields(other)...)
	}
	// A filter without its server folds nothing, and a server that is not root's is none.
	must(t, s.CopyIn("/usr/bin/sleep", "/opt/tests/uid-supervise"))
	impostor, err := s.StartDaemon("impostor", "setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "/opt/tests/uid-supervise", "60")
	must(t, err)
	// Until none is left: one that dies a moment later starts the others again.
	prepare = "for n in $(seq 100); do pids=$(pgrep -u 0 '^uid-(keeper|supervise|fold)$') || break; kill -9 $pids 2>/dev/null; sleep 0.05; done; " +
		"[ \"$(pgrep -c '^uid-(keeper|supervise|fold)$')\" = 1 ]"
	run("not under supervise", "problem", checkProgram, "supervise", "--")
	prepare = ""
	must(t, impostor.Stop())

	// The drop-in wraps whatever the unit runs.
	must(t, s.WriteFile("/opt/tests/systemctl", []byte(`#!/bin/sh
case $1 in
cat) printf '[Service]\nExecStart=/bin/false\n# 10-kubeadm.conf\nExecStart=\nExecStart=/usr/bin/kubelet --a=b $KUBELET_ARGS "c  d"\n' ;;
*) echo "$@" ;;
esac
`), 0o755))
	out, err := s.Run("sh", "-c", "PATH=/opt/tests:$PATH; "+remedy)
	must(t, err)
	equal(t, "systemctl", out, "daemon-reload\nrestart kubelet\n")
	equal(t, "the drop-in", s.ReadFile("/etc/systemd/system/kubelet.service.d/20-supervise.conf"),
		"[Service]\nExecStart=\nExecStart="+checkProgram+` supervise -- /usr/bin/kubelet --a=b $KUBELET_ARGS "c  d"`+"\n")
}

// Usernetes keeps /opt on a volume, which the image fills once.
func TestCheckVolume(t *testing.T) {
	s := ownSite(t, careful, options{})
	found, remedy := s.check(t).found(t, "plugin")
	equal(t, "the control", found, "not in /opt/nri/plugins")
	if strings.Contains(remedy, "volume") {
		t.Errorf("there is no volume: %s", remedy)
	}
	_, err := s.Run("mount", "--rbind", "/opt", "/opt")
	must(t, err)
	c := s.check(t)
	c.states(t, s, map[string]string{"plugin": "problem"})
	found, remedy = c.found(t, "plugin")
	contains(t, "plugin", found, "; /opt is a volume")
	contains(t, "remedy", remedy, `ENTRYPOINT ["uid-nri-plugin", "node", "--"`)
	_, err = s.Run("sh", "-c", strings.ReplaceAll(remedy, "systemctl restart containerd", ""))
	must(t, err)
	must(t, s.RestartContainerd())
	s.check(t).states(t, s, nil)

	// An old copy in the volume.
	_, err = s.Run("sh", "-c", "cp "+lab.PluginFile+" /opt/tests/old && echo >>/opt/tests/old && mv /opt/tests/old "+lab.PluginFile)
	must(t, err)
	c = s.check(t)
	c.states(t, s, map[string]string{"plugin": "warning"})
	found, _ = c.found(t, "plugin")
	contains(t, "an old copy", found, lab.PluginFile+" is of another version than this program, "+checkProgram+"; /opt is a volume")
}

func TestCheckOtherContainerd(t *testing.T) {
	for version, c := range map[string]struct {
		variable, nri string
		states        map[string]string
	}{
		"2.4": {"LAB_CONTAINERD_2_4", "0.12.", nil},
		"2.2": {"LAB_CONTAINERD_2_2", "0.11.", map[string]string{"containerd": "warning"}},
		"2.1": {"LAB_CONTAINERD_2_1", "0.8.", map[string]string{"containerd": "problem"}},
		"1.7": {"LAB_CONTAINERD_1_7", "0.8.", map[string]string{"containerd": "problem", "plugin": "problem"}},
	} {
		t.Run(version, func(t *testing.T) {
			if os.Getenv(c.variable) == "" {
				t.Fatalf("%s is not set: start the tests with tests/run.sh", c.variable)
			}
			s := ownSite(t, careful, options{plugin: true, other: true, containerd: os.Getenv(c.variable)})
			found := s.check(t)
			found.states(t, s, c.states)
			text, _ := found.found(t, "containerd")
			contains(t, "containerd", text, "v"+version+".")
			contains(t, "containerd", text, "(NRI "+c.nri)
			if version != "1.7" {
				return
			}
			text, remedy := found.found(t, "plugin")
			contains(t, "plugin", text, "NRI is disabled by default")
			lines := strings.Split(remedy, "\n")
			_, err := s.Run("sh", "-c", lines[0])
			must(t, err)
			must(t, s.RestartContainerd())
			s.check(t).states(t, s, map[string]string{"containerd": "problem"})
		})
	}
}

// edit appends to containerd's configuration, and starts it anew.
func (s *site) edit(t *testing.T, more string) {
	t.Helper()
	const file = "/etc/containerd/config.toml"
	must(t, s.WriteFile(file, []byte(s.ReadFile(file)+more), 0o644))
	must(t, s.RestartContainerd())
}

func TestCheckConfiguration(t *testing.T) {
	s := ownSite(t, careful, options{plugin: true})
	s.edit(t, "\n[plugins.'io.containerd.nri.v1.nri'] # off\n  disable = true\n")
	c := s.check(t)
	c.states(t, s, map[string]string{"plugin": "problem"})
	found, remedy := c.found(t, "plugin")
	contains(t, "plugin", found, "NRI is disabled")
	_, err := s.Run("sh", "-c", strings.Split(remedy, "\n")[0])
	must(t, err)
	must(t, s.RestartContainerd())
	s.check(t).states(t, s, nil)

	// A validator: what check says is what a pod meets.
	t.Run("validator", func(t *testing.T) {
		s.edit(t, "  [plugins.'io.containerd.nri.v1.nri'.default_validator]\n    enable = true\n    reject_namespace_adjustment = true\n")
		c := s.check(t)
		c.states(t, s, map[string]string{"others": "problem"})
		pod := s.pod(t, lab.Pod{})
		refused(t, pod, highUser, "namespace adjustment")
		_, remedy := c.found(t, "others")
		_, err := s.Run("sh", "-c", strings.Split(remedy, "\n")[0])
		must(t, err)
		must(t, s.RestartContainerd())
		s.check(t).states(t, s, nil)
		equal(t, "id -u", sh(t, start(t, pod, highUser), "id -u"), "10001")
	})

	// Others in the folder, and no containerd.
	must(t, s.WriteFile("/opt/nri/plugins/10-other", []byte("#!/bin/sh\n"), 0o755))
	c = s.check(t)
	c.states(t, s, map[string]string{"others": "warning"})
	must(t, s.WriteFile("/opt/nri/plugins/other", []byte("#!/bin/sh\n"), 0o755))
	must(t, s.StopContainerd())
	c = s.check(t)
	c.states(t, s, map[string]string{"others": "problem", "containerd": "problem"})
	found, _ = c.found(t, "containerd")
	contains(t, "containerd", found, "does not run")
	must(t, s.WriteFile("/etc/containerd/config.toml", []byte("\xff\x00[[[\"'''\n=\n"), 0o644))
	s.check(t)
}

// Rights that a node's root may lack, taken from it one by one.
func TestCheckRights(t *testing.T) {
	s := ownSite(t, careful, options{plugin: true})
	s.check(t).states(t, s, nil)
	for _, c := range []struct{ name, run, find, want string }{
		{"a capability", "setpriv --bounding-set -sys_admin --inh-caps -sys_admin", "root", "problem  root        root lacks CAP_SYS_ADMIN"},
		{"a capability of the kernel's", "setpriv --bounding-set -sys_admin --inh-caps -sys_admin", "kernel", "Operation not permitted\n         podman run --privileged"},
		{"setfcap", "setpriv --bounding-set -setfcap --inh-caps -setfcap", "root", "problem  root        root lacks CAP_SETFCAP"},
		{"not root", "setpriv --reuid 1000 --regid 1000 --clear-groups", "root", "problem  root        this is not the node's root"},
		{"version for anybody", "setpriv --reuid 1000 --regid 1000 --clear-groups", "containerd", "ok       containerd  v2.3.4 (NRI 0.12.0)"},
		{"plugin for anybody", "setpriv --reuid 1000 --regid 1000 --clear-groups", "plugin", "ok       plugin "},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := s.Run("sh", "-c", c.run+" "+checkProgram+" check | grep -A2 '^[a-z]* *"+c.find+" '")
			must(t, err)
			contains(t, c.find, out, c.want)
		})
	}
	const limit = "/proc/sys/user/max_user_namespaces"
	most := strings.TrimSpace(s.ReadFile(limit))
	set := func(n string) {
		_, err := s.Run("sh", "-c", "echo "+n+" >"+limit)
		must(t, err)
	}
	set("0")
	c := s.check(t)
	c.states(t, s, map[string]string{"root": "problem"})
	found, remedy := c.found(t, "root")
	contains(t, "root", found, "No space left on device")
	equal(t, "remedy", remedy, "sysctl -w user.max_user_namespaces=65536")
	set("50")
	c = s.check(t)
	c.states(t, s, map[string]string{"root": "warning"})
	_, remedy = c.found(t, "root")
	equal(t, "remedy", remedy, "sysctl -w user.max_user_namespaces=65536")
	set("65536")
	s.check(t).states(t, s, nil)
	set(most)
	s.check(t).states(t, s, nil)
}

// A program of that name that is somebody else's, or in a container, is not asked for its version: root would run it.
func TestCheckImpostor(t *testing.T) {
	s := ownSite(t, careful, options{plugin: true})
	must(t, s.StopContainerd())
	const impostor = "/opt/tests/containerd"
	must(t, s.CopyIn("/usr/bin/sleep", impostor))
	run := func(argv ...string) string {
		d, err := s.StartDaemon("impostor", append(argv, impostor, "60")...)
		must(t, err)
		must(t, lab.Await(5*time.Second, "a process of that name", func() bool {
			out, _ := s.Run("sh", "-c", "cat /proc/[0-9]*/comm")
			return strings.Contains("\n"+out, "\ncontainerd\n")
		}))
		found, _ := s.check(t).found(t, "containerd")
		_, err = s.Run("sh", "-c", "grep -lx containerd /proc/[0-9]*/comm | cut -d/ -f3 | xargs kill -9")
		must(t, err)
		_, err = d.Wait(5 * time.Second)
		must(t, err)
		return found
	}
	contains(t, "the control", run("env"), "its version is not known")
	for _, other := range []string{"setpriv --reuid 1000 --regid 1000 --clear-groups", "unshare -m", "unshare -p -f"} {
		found := run(strings.Fields(other)...)
		contains(t, other, found, "v2.3.")
		contains(t, other, found, "it does not run")
	}
}

func TestCheckSingleId(t *testing.T) {
	one := layout{name: "single", uids: lab.Single, pool: 1, pause: lab.Image{Name: pauseAsRoot, Cmd: forever}}
	s := ownSite(t, one, options{plugin: true})
	c := s.check(t)
	c.states(t, s, map[string]string{"ids": "problem", "sandboxes": "problem"})
	found, remedy := c.found(t, "sandboxes")
	contains(t, "sandboxes", found, "no pod starts")
	contains(t, "remedy", remedy, "uid-nri-plugin plan")
}

// Before there is a node: with the rights of nobody, and of root.
func TestCheckHost(t *testing.T) {
	binary, err := pluginBinary()
	must(t, err)
	at := t.TempDir()
	program := at + "/uid-nri-plugin"
	must(t, exec.Command("cp", binary, program).Run())
	for dir := at; dir != "/tmp"; dir = dir[:strings.LastIndex(dir, "/")] {
		must(t, os.Chmod(dir, 0o755))
	}
	for _, user := range []string{"root", "nobody"} {
		t.Run(user, func(t *testing.T) {
			var c checked
			out, err := exec.Command("setpriv", "--reuid", user, "--regid", "65534", "--clear-groups", program, "check", "--host", "--json").Output()
			var exit *exec.ExitError
			if err != nil && !asExit(err, &exit) {
				t.Fatal(err)
			}
			must(t, json.Unmarshal(out, &c))
			code := 0
			if exit != nil {
				code = exit.ExitCode()
			}
			equal(t, "exit code", code, codes[c.State])
			found, remedy := c.found(t, "ids")
			contains(t, "ids", found, "for "+user)
			if user == "nobody" {
				contains(t, "remedy", remedy, "| sudo tee -a /etc/subuid")
			}
			found, _ = c.found(t, "namespaces")
			contains(t, "namespaces", found, "this user makes user namespaces")
			found, _ = c.found(t, "kernel")
			contains(t, "kernel", found, "seccomp notification")
		})
	}
	// What is no node is not judged as one, and wrong options are no finding.
	for words, status := range map[string]string{"check": "2", "check --hots": "3"} {
		out, err := exec.Command("sh", "-c", program+" "+words+" 2>&1; echo $?").Output()
		must(t, err)
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		equal(t, words, lines[len(lines)-1], status)
		if words == "check" {
			equal(t, "check", lines[0], "problem  node        this is no node, but the machine itself")
		}
	}
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*exit = e
	return ok
}
