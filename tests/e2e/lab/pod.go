package lab

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Pod says what a pod should be like, as kubelet would say it to containerd.
type Pod struct {
	Name        string
	Namespace   string // "default" when empty
	Annotations map[string]string
	HostNetwork bool
	HostPID     bool
	HostIPC     bool
	SharePID    bool // shareProcessNamespace
	Privileged  bool // allows privileged containers
	Handler     string
}

// Container says what a container should be like.
type Container struct {
	Name       string
	Image      string
	Command    []string
	User       *int
	Group      *int
	Groups     []int // supplementalGroups, to which kubelet adds fsGroup
	ReadOnly   bool  // readOnlyRootFilesystem
	Terminal   bool
	Target     *Running // whose processes it is to see, as kubectl debug --target does
	Privileged bool
	Mounts     []Mount
}

// Mount is a folder of the node in a container.
type Mount struct {
	Node      string `json:"host_path"`
	Container string `json:"container_path"`
	ReadOnly  bool   `json:"readonly"`
}

// ID makes a Container's optional User or Group.
func ID(id int) *int { return &id }

// Sandbox is a pod that runs.
type Sandbox struct {
	ID     string
	node   *Node
	pod    Pod
	config string // path of its configuration in the node
}

// Running is a container that was started, and may have ended.
type Running struct {
	ID      string
	Sandbox *Sandbox
	log     string
}

// Values of the CRI's NamespaceMode.
const (
	modePod, modeContainer, modeNode, modeTarget = 0, 1, 2, 3
)

var serial atomic.Int64

func value(id *int) any {
	if id == nil {
		return nil
	}
	return map[string]int{"value": *id}
}

var fatal = regexp.MustCompile(`(?m)^time=.* level=fatal msg=(".*")$`)

// crictl runs crictl. The error is what it says itself at the end, without its log.
func (n *Node) crictl(args ...string) (string, error) {
	out, err := n.Run("crictl", args...)
	if err != nil {
		if last := fatal.FindStringSubmatch(err.Error()); last != nil {
			if message, bad := strconv.Unquote(last[1]); bad == nil {
				err = fmt.Errorf("crictl %s: %s", args[0], strings.TrimSpace(message))
			}
		}
	}
	return strings.TrimSpace(out), err
}

// RunPod makes a pod with no containers yet.
func (n *Node) RunPod(p Pod) (*Sandbox, error) {
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	uid := fmt.Sprintf("%s-%d", p.Name, serial.Add(1))
	s := &Sandbox{node: n, pod: p, config: "/run/lab/" + uid + "/pod.json"}
	config := map[string]any{
		"metadata":      map[string]any{"name": p.Name, "namespace": p.Namespace, "uid": uid, "attempt": 1},
		"annotations":   p.Annotations,
		"log_directory": filepath.Join("/var/log/pods", uid),
		"linux": map[string]any{
			"cgroup_parent":    "/pods",
			"security_context": map[string]any{"namespace_options": p.namespaces(), "privileged": p.Privileged},
		},
	}
	if !p.HostNetwork { // which comes with the node's host name
		config["hostname"] = p.Name
	}
	if err := n.writeJSON(s.config, config); err != nil {
		return nil, err
	}
	if err := n.Mkdir(filepath.Join("/var/log/pods", uid)); err != nil {
		return nil, err
	}
	args := []string{"runp"}
	if p.Handler != "" {
		args = append(args, "--runtime", p.Handler)
	}
	id, err := n.crictl(append(args, s.config)...)
	if err != nil {
		return nil, err
	}
	s.ID = id
	return s, nil
}

func (p Pod) namespaces() map[string]any {
	modes := map[string]any{"network": modePod, "pid": modeContainer, "ipc": modePod}
	if p.HostNetwork {
		modes["network"] = modeNode
	}
	if p.SharePID {
		modes["pid"] = modePod
	}
	if p.HostPID {
		modes["pid"] = modeNode
	}
	if p.HostIPC {
		modes["ipc"] = modeNode
	}
	return modes
}

func (n *Node) writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return n.WriteFile(path, text, 0o644)
}

// Create makes a container without starting it.
func (s *Sandbox) Create(c Container) (*Running, error) {
	if c.Name == "" {
		c.Name = "main"
	}
	n := s.node
	namespaces := s.pod.namespaces()
	if c.Target != nil {
		namespaces["pid"], namespaces["target_id"] = modeTarget, c.Target.ID
	}
	security := map[string]any{
		"namespace_options":   namespaces,
		"run_as_user":         value(c.User),
		"run_as_group":        value(c.Group),
		"supplemental_groups": c.Groups,
		"readonly_rootfs":     c.ReadOnly,
		"privileged":          c.Privileged,
	}
	if !c.Privileged { // as kubelet hides them
		security["masked_paths"] = strings.Fields("/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug " +
			"/proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware")
		security["readonly_paths"] = strings.Fields("/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger")
		security["seccomp"] = map[string]int{"profile_type": 0} // RuntimeDefault
	}
	config := map[string]any{
		"metadata": map[string]any{"name": c.Name, "attempt": 1},
		"image":    map[string]string{"image": c.Image},
		"command":  c.Command,
		"mounts":   c.Mounts,
		"log_path": c.Name + ".log",
		"tty":      c.Terminal,
		"linux":    map[string]any{"security_context": security},
	}
	path := filepath.Join(filepath.Dir(s.config), c.Name+".json")
	if err := n.writeJSON(path, config); err != nil {
		return nil, err
	}
	id, err := n.crictl("create", s.ID, path, s.config)
	if err != nil {
		return nil, err
	}
	uid := filepath.Base(filepath.Dir(s.config))
	return &Running{ID: id, Sandbox: s, log: filepath.Join("/var/log/pods", uid, c.Name+".log")}, nil
}

// Start makes a container and starts it.
func (s *Sandbox) Start(c Container) (*Running, error) {
	r, err := s.Create(c)
	if err != nil {
		return nil, err
	}
	if _, err := s.node.crictl("start", r.ID); err != nil {
		return r, err
	}
	return r, nil
}

// Remove stops the pod and removes it with all its containers.
func (s *Sandbox) Remove() error {
	if _, err := s.node.crictl("stopp", s.ID); err != nil {
		return err
	}
	_, err := s.node.crictl("rmp", s.ID)
	return err
}

// Exec runs a command in the container, as crictl exec does.
func (r *Running) Exec(argv ...string) (string, error) {
	out, err := r.Sandbox.node.crictl(append([]string{"exec", "-s", r.ID}, argv...)...)
	return out, err
}

// Sh runs a shell command line in the container.
func (r *Running) Sh(script string) (string, error) { return r.Exec("sh", "-c", script) }

// Wait waits for the end of the container, and gives its exit code.
func (r *Running) Wait() (int, error) {
	code := -1
	err := Await(20*time.Second, "the end of container "+r.ID, func() bool {
		out, err := r.inspect(`{{.status.state}} {{.status.exitCode}}`)
		state, exit, _ := strings.Cut(out, " ")
		if err != nil || state != "CONTAINER_EXITED" {
			return false
		}
		code, err = strconv.Atoi(exit)
		return err == nil
	})
	return code, err
}

// State is the CRI's word for it.
func (r *Running) State() (string, error) { return r.inspect("{{.status.state}}") }

func (r *Running) inspect(template string) (string, error) {
	return r.Sandbox.node.crictl("inspect", "-o", "go-template", "--template", template, r.ID)
}

// Pid is the node's process id of its first process.
func (r *Running) Pid() (int, error) {
	out, err := r.inspect("{{.info.pid}}")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}

// Output is what it wrote to stdout and stderr, without the CRI's line heads.
func (r *Running) Output() string {
	var text strings.Builder
	for line := range strings.Lines(r.Sandbox.node.ReadFile(r.log)) {
		// 2006-01-02T15:04:05.0Z stdout F the line
		if head := strings.SplitN(line, " ", 4); len(head) == 4 {
			text.WriteString(head[3])
		}
	}
	return text.String()
}

// Config reads the container's config.json with jq.
func (r *Running) Config(query string) (string, error) {
	bundle := "/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + r.ID
	out, err := r.Sandbox.node.Run("jq", "-r", query, bundle+"/config.json")
	return strings.TrimSpace(out), err
}

// Remove stops the container and removes it.
func (r *Running) Remove() error {
	_, err := r.Sandbox.node.crictl("rm", "-f", r.ID)
	return err
}
