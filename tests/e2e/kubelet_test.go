package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"uid-nri-plugin/tests/e2e/lab"
)

// A real kubelet. The API server that it is told of does not answer, so it runs the pods that it finds in a folder;
// without being told of one it makes no projected volumes.

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: /etc/kubernetes/manifests
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
localStorageCapacityIsolation: false
readOnlyPort: 0
featureGates: {KubeletInUserNamespace: true}
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%"}
`

// What kubelet does with ids for a pod: a volume for fsGroup, another made of the pod's own words, a part of a volume.
const staticPod = `apiVersion: v1
kind: Pod
metadata: {name: volumes, namespace: default, labels: {it: works}}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532}
  volumes:
  - {name: empty, emptyDir: {}}
  - name: projected
    projected: {defaultMode: 288, sources: [{downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}]}
  containers:
  - name: main
    image: localhost/tools:test
    imagePullPolicy: Never
    command: [sleep, "1000"]
    volumeMounts:
    - {name: empty, mountPath: /data}
    - {name: empty, mountPath: /part, subPath: some/part}
    - {name: projected, mountPath: /projected}
`

// startKubelet starts one with the pod above.
func (s *site) startKubelet(t *testing.T) *lab.Daemon {
	t.Helper()
	dir := os.Getenv("LAB_KUBELET")
	if dir == "" {
		t.Fatal("LAB_KUBELET is not set: start the tests with tests/run.sh")
	}
	must(t, s.CopyIn(dir+"/kubelet", "/opt/kubelet/kubelet"))
	must(t, s.WriteFile("/etc/kubernetes/kubelet.yaml", []byte(kubeletConfig), 0o644))
	must(t, s.WriteFile("/etc/kubernetes/kubeconfig", []byte(kubeconfig), 0o600))
	must(t, s.WriteFile("/etc/kubernetes/manifests/volumes.yaml", []byte(staticPod), 0o644))
	d, err := s.StartDaemon("kubelet", s.Supervised("/opt/kubelet/kubelet", "--config=/etc/kubernetes/kubelet.yaml",
		"--kubeconfig=/etc/kubernetes/kubeconfig", "--hostname-override=node", "--node-ip=127.0.0.1", "--v=2")...)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			log := d.Output()
			t.Logf("%s: kubelet: %s", s.Name, log[max(0, len(log)-5000):])
		}
	})
	return d
}

func TestSupervisedKubelet(t *testing.T) {
	control := ownSite(t, plain, options{})
	d := control.startKubelet(t)
	must(t, lab.Await(60*time.Second, "what kubelet says of the volume without the supervisor", func() bool {
		return strings.Contains(d.Output(), "kubernetes.io~empty-dir/empty: invalid argument") || !d.Running()
	}))
	if !d.Running() {
		t.Fatal("kubelet ended")
	}
	must(t, d.Stop())

	s := ownSite(t, stock, options{supervise: true})
	d = s.startKubelet(t)
	var id string
	must(t, lab.Await(60*time.Second, "the pod", func() bool {
		id, _ = s.Run("crictl", "ps", "-q", "--name", "main")
		id = strings.TrimSpace(id)
		return id != "" || !d.Running()
	}))
	in := func(script string) string {
		t.Helper()
		out, err := s.Run("crictl", "exec", "-s", id, "sh", "-c", script)
		must(t, err)
		return strings.TrimSpace(out)
	}
	equal(t, "id", in("id -u; id -G"), "1556\n1556")
	equal(t, "the volume of fsGroup", in("stat -c '%u:%g %a' /data; touch /data/new; stat -c %u:%g /data/new"), "0:1556 2777\n1556:1556")
	equal(t, "the part of it", in("stat -c %g /part; touch /part/new && stat -c %u:%g /data/some/part/new"), "1556\n1556:1556")
	equal(t, "the projected volume", in("cat /projected/labels; stat -L -c ' %g' /projected/labels"), `it="works" 1556`)
	if log := d.Output(); strings.Contains(log, "MountVolume.SetUp failed") {
		t.Error("kubelet could not set up a volume")
	}
	must(t, d.Stop())
}
