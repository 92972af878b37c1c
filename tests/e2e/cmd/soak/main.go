// Command soak makes and removes containers by thousands through the real containerd, then has many pods alive at once,
// and measures the plugin, supervise and the node before, in the middle and after. It fails if anything has grown.
//
//	soak [-cycles N] [-pods N] [-limit DURATION]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"uid-nri-plugin/tests/e2e/lab"
)

const (
	image  = "localhost/tools:test"
	pause  = "localhost/pause:test"
	plugin = "/opt/plugin"
	perPod = 20  // containers of a pod, each with a map of its own
	slack  = 512 // KiB of memory that are no growth
)

func main() {
	lab.Main()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run() error {
	cycles := flag.Int("cycles", 20000, "containers to create and remove, `N`")
	pods := flag.Int("pods", 200, "pods alive at once, `N`")
	limit := flag.Duration("limit", time.Hour, "the longest that it may take")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	s, err := start()
	if err != nil {
		return err
	}
	defer s.node.Close()

	// What is made only once comes before the first measurement, and the most that is ever needed at once.
	if err := errors.Join(s.cycle(ctx, 4*perPod, nil), s.fill(ctx, *pods, func() {}), s.settle(ctx)); err != nil {
		return err
	}
	before := s.measured("before")
	began := time.Now()
	err = s.cycle(ctx, *cycles, func(done int) { s.during(before, s.measured(fmt.Sprint("after ", done))) })
	if err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("%d containers created and removed in %v, %v each\n", *cycles, took.Round(time.Second), (took / time.Duration(*cycles)).Round(time.Microsecond))
	if err := s.settled(ctx, before); err != nil {
		return err
	}

	err = s.fill(ctx, *pods, func() {
		full := s.measured(fmt.Sprint(*pods, " pods"))
		s.during(before, full)
		s.check(full.namespaces == before.namespaces+*pods, "user namespaces with %d pods: %d, and %d without", *pods, full.namespaces, before.namespaces)
	})
	if err != nil {
		return err
	}
	if err := s.settled(ctx, before); err != nil {
		return err
	}
	return errors.Join(s.failures...)
}

type soak struct {
	node     *lab.Node
	cri      cri.RuntimeServiceClient
	serial   atomic.Int64
	failures []error
}

const (
	config = "/etc/containerd/config.toml"
	// What a busy machine makes late is not what is measured.
	patience = "\n[plugins.\"io.containerd.nri.v1.nri\"]\n  plugin_request_timeout = \"30s\"\n"
)

// start makes a node in which containerd runs under supervise, and the plugin beside it, as "node" has it.
func start() (*soak, error) {
	binary := os.Getenv("UID_NRI_PLUGIN")
	if binary == "" {
		return nil, errors.New("UID_NRI_PLUGIN is not set: start this with tests/soak.sh")
	}
	n, err := lab.StartNode("soak", lab.Careful, lab.Careful, lab.Peers{
		Containerd: os.Getenv("LAB_CONTAINERD"), Runc: os.Getenv("LAB_RUNC"), Crictl: os.Getenv("LAB_CRICTL"),
	})
	if err != nil {
		return nil, err
	}
	sleep := []string{"sleep", "100000"}
	err = func() error {
		if err := errors.Join(n.SetUp(pause), n.CopyIn(binary, plugin), n.Supervise(binary)); err != nil {
			return err
		}
		// Who is not root of the machine has 200 keys (kernel.keys.maxkeys), and each container would take one.
		text := strings.ReplaceAll(n.ReadFile(config), "BinaryName", "NoNewKeyring = true\n  BinaryName") + patience
		if err := n.WriteFile(config, []byte(text), 0o644); err != nil {
			return err
		}
		if err := n.StartContainerd(); err != nil {
			return err
		}
		if _, err := n.StartDaemon("plugin", plugin); err != nil {
			return err
		}
		// Its first words are those about the node, once it is configured.
		if err := lab.Await(5*time.Second, "the plugin", func() bool { return n.ReadFile("/var/log/plugin.log") != "" }); err != nil {
			return err
		}
		return n.Import(lab.Image{Name: pause, User: "65535:65535", Cmd: sleep}, lab.Image{Name: image, Cmd: sleep})
	}()
	var conn *grpc.ClientConn
	if err == nil {
		conn, err = grpc.NewClient("unix://"+n.Path("/run/containerd/containerd.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	return &soak{node: n, cri: cri.NewRuntimeServiceClient(conn)}, nil
}

// pod is a sandbox that runs, and how it was asked for.
type pod struct {
	id     string
	config *cri.PodSandboxConfig
}

func (s *soak) run(ctx context.Context) (pod, error) {
	name := fmt.Sprint("soak-", s.serial.Add(1))
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"},
		Hostname: name,
		Linux:    &cri.LinuxPodSandboxConfig{CgroupParent: "/pods", SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: namespaces}},
	}
	answer, err := s.cri.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	return pod{answer.GetPodSandboxId(), config}, err
}

var namespaces = &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}

// create makes the nth container of a pod, and starts it if asked to.
func (s *soak) create(ctx context.Context, p pod, n int, starts bool) (string, error) {
	answer, err := s.cri.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: fmt.Sprint("c", n)},
		Image:    &cri.ImageSpec{Image: image},
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			RunAsUser: &cri.Int64Value{Value: int64(10001 + n)}, NamespaceOptions: namespaces,
		}},
	}})
	if err == nil && starts {
		_, err = s.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: answer.ContainerId})
	}
	return answer.GetContainerId(), err
}

func (s *soak) remove(ctx context.Context, p pod) error {
	if _, err := s.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return err
	}
	_, err := s.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
	return err
}

// cycle creates and removes containers, in pods that come and go as well, and tells of its progress ten times.
func (s *soak) cycle(ctx context.Context, containers int, progress func(done int)) error {
	rounds := (containers + perPod - 1) / perPod
	for tenth := range 10 {
		from, to := rounds*tenth/10, rounds*(tenth+1)/10
		err := parallel(to-from, func(round int) error {
			p, err := s.run(ctx)
			if err != nil {
				return err
			}
			own := min(perPod, containers-(from+round)*perPod)
			for n := range own {
				id, err := s.create(ctx, p, n, n == 0)
				if err != nil {
					return err
				}
				if _, err := s.cri.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
					return err
				}
			}
			if pinned, _ := filepath.Glob(s.node.Path(lab.StateDir + "/pods/" + p.id + "/*.user")); len(pinned) != own {
				return fmt.Errorf("%d containers of a pod have %d user namespaces", own, len(pinned))
			}
			return s.remove(ctx, p)
		})
		if err != nil {
			return err
		}
		if progress != nil && to > from {
			progress(min(containers, to*perPod))
		}
	}
	return nil
}

// fill starts pods, each with one container, calls full while all are alive, and removes them.
func (s *soak) fill(ctx context.Context, pods int, full func()) error {
	alive := make([]pod, pods)
	err := parallel(pods, func(i int) (err error) {
		if alive[i], err = s.run(ctx); err != nil {
			return err
		}
		_, err = s.create(ctx, alive[i], i, true)
		return err
	})
	if err != nil {
		return err
	}
	full()
	return parallel(pods, func(i int) error { return s.remove(ctx, alive[i]) })
}

// parallel does n things, two at a time.
func parallel(n int, do func(i int) error) error {
	var next atomic.Int64
	var both sync.WaitGroup
	var failed [2]error
	for k := range failed {
		both.Go(func() {
			for failed[k] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				failed[k] = do(i)
			}
		})
	}
	both.Wait()
	return errors.Join(failed[:]...)
}

// program is what all processes of one file have together.
type program struct{ processes, resident, descriptors int }

type measurement struct {
	plugin, supervise, containerd    program
	mounts, namespaces, files, inRun int
}

var header sync.Once

// measured measures and prints.
func (s *soak) measured(when string) measurement {
	header.Do(func() {
		fmt.Printf("%-14s %24s %24s %24s %7s %11s %15s %9s\n", "", "plugin", "supervise", "containerd", "mounts", "user", "files of ours", "all files")
		fmt.Printf("%-14s %24s %24s %24s %7s %11s %15s %9s\n", "", "number KiB descriptors", "number KiB descriptors", "number KiB descriptors", "", "namespaces", "below /run", "of /run")
	})
	m := s.measure()
	fmt.Printf("%-14s", when)
	for _, p := range []program{m.plugin, m.supervise, m.containerd} {
		fmt.Printf(" %6d %7d %9d", p.processes, p.resident, p.descriptors)
	}
	fmt.Printf(" %7d %11d %15d %9d\n", m.mounts, m.namespaces, m.files, m.inRun)
	return m
}

func (s *soak) measure() (m measurement) {
	mounts := s.node.ReadFile("/proc/1/mountinfo")
	m.mounts = strings.Count(mounts, "\n")
	users := map[string]bool{}
	for line := range strings.Lines(mounts) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[3], "user:[") {
			users[fields[3]] = true
		}
	}
	processes, _ := filepath.Glob(s.node.Path("/proc/[0-9]*"))
	for _, dir := range processes {
		if user, err := os.Readlink(dir + "/ns/user"); err == nil {
			users[user] = true
		}
		var p *program
		switch exe, _ := os.Readlink(dir + "/exe"); exe {
		case plugin:
			p = &m.plugin
		case lab.Supervisor:
			p = &m.supervise
		case "/usr/local/bin/containerd":
			p = &m.containerd
		default:
			continue
		}
		p.processes++
		p.resident += resident(dir)
		descriptors, _ := os.ReadDir(dir + "/fd")
		p.descriptors += len(descriptors)
	}
	m.namespaces = len(users)
	m.files, m.inRun = count(s.node.Path(lab.StateDir)), count(s.node.Path("/run"))
	return m
}

// resident is the memory of a process in KiB.
func resident(dir string) int {
	status, _ := os.ReadFile(dir + "/status")
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	number, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	kib, _ := strconv.Atoi(number)
	return kib
}

// count is how many files there are, without those of file systems that are mounted in the folder.
func count(dir string) (files int) {
	var top, here syscall.Stat_t
	syscall.Stat(dir, &top)
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, _ error) error {
		files++
		if syscall.Lstat(path, &here) == nil && here.Dev != top.Dev && entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return files
}

func (s *soak) check(holds bool, format string, args ...any) {
	if !holds {
		s.failures = append(s.failures, fmt.Errorf(format, args...))
	}
}

// during is what must hold at any time: the plugin keeps nothing of pods in its memory or open.
func (s *soak) during(before, now measurement) {
	s.check(now.plugin.processes == 1 && before.plugin.processes == 1, "the plugin's processes: %d, and %d before", now.plugin.processes, before.plugin.processes)
	s.check(now.plugin.resident <= before.plugin.resident+slack, "the plugin's memory: %d KiB, and %d before", now.plugin.resident, before.plugin.resident)
	s.check(now.plugin.descriptors == before.plugin.descriptors, "the plugin's descriptors: %d, and %d before", now.plugin.descriptors, before.plugin.descriptors)
}

// idle is a little more than the time after which supervise ends a worker without calls, once it needs another one.
const idle = 11 * time.Second

// settle has supervise end its workers for pods that are gone.
func (s *soak) settle(ctx context.Context) error {
	time.Sleep(idle)
	return s.cycle(ctx, 1, nil)
}

// settled waits until what comes and goes with pods is as it was before.
func (s *soak) settled(ctx context.Context, before measurement) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	same := func(m measurement) bool {
		return m.mounts == before.mounts && m.namespaces == before.namespaces && m.files == before.files && m.inRun <= before.inRun &&
			m.supervise.processes <= before.supervise.processes && m.supervise.descriptors <= before.supervise.descriptors
	}
	err := lab.Await(20*time.Second, "the state of before", func() bool { return same(s.measure()) })
	m := s.measured("all removed")
	s.during(before, m)
	s.check(err == nil, "there is more left than before: %+v, and %+v before", m, before)
	s.check(m.supervise.resident <= before.supervise.resident+slack, "supervise's memory: %d KiB, and %d before", m.supervise.resident, before.supervise.resident)
	return nil
}
