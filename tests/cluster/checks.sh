# shellcheck shell=sh disable=SC2154 # what is not set here is set by cluster.sh
# What is looked at in the nodes of tests/cluster.sh, which reads this inside its namespaces: each line has a name, what is
# expected, and what is seen. One difference fails the whole test.
differences=0

# see NAME WANT COMMAND...: a line of the table. WANT is a pattern as in "case"; seen is the end of the output, in one line.
see() {
	see_name=$1 see_want=$2
	shift 2
	see_got=$("$@" 2>&1 | tr -s '\n\t ' ' ' | tail -c 250) || :
	see_got=${see_got% }
	# shellcheck disable=SC2254 # WANT is a pattern
	case $see_got in
	$see_want) printf '%-9s%-39s%s\n' "$node" "$see_name" "$see_got" ;;
	*)
		differences=$((differences + 1))
		printf '%-9s%-39sDIFFERS: %s\n%48sexpected: %s\n' "$node" "$see_name" "$see_got" '' "$see_want"
		;;
	esac
}

k() {
	in_node kubectl "$@"
}

# inside POD[/CONTAINER] SCRIPT
inside() {
	case $1 in
	*/*) k exec "${1%/*}" -c "${1#*/}" -- sh -c "$2" ;;
	*) k exec -q "$1" -- sh -c "$2" ;;
	esac
}

# Sets map and pool: the node's map, and the run of its ids from 0 on.
find_pool() {
	in_node cat /proc/self/uid_map | sort -n >"$work/uid_map"
	pool=$(awk '$1 > end { exit } { end = $1 + $3 } END { print end }' "$work/uid_map")
}

# has ID: whether the node's map has it.
has() {
	awk -v id="$1" '$1 <= id && id < $1 + $3 { found = 1 } END { exit !found }' "$work/uid_map"
}

# place ID: the number that stands for an id which the node lacks. This is the rule, written once more.
place() {
	if has "$1"; then
		echo "$1"
		return
	fi
	spared=$((pool / 2))
	[ "$spared" -le 1000 ] || spared=1000
	echo $((spared + $1 % (pool - spared)))
}

apply_pods() {
	say "$node: pods"
	as_user podman exec -i "$node" kubectl apply -f - <"$cluster/pods.yaml" >/dev/null
}

pods_ready() {
	await 180 "pods that are ready, all but host-users" all_ready
}

all_ready() {
	unready=$(k get pods --all-namespaces --no-headers | awk '
		$2 == "host-users" || $4 == "Completed" { next }
		{ split($3, n, "/"); if (n[1] != n[2] || $4 != "Running") print }
		END { if (NR < 20) print NR " pods only" }')
	printf '%s\n' "$unready"
	[ -z "$unready" ]
}

# trouble_of POD: the first warning about a pod.
trouble_of() {
	k get events --field-selector "involvedObject.name=$1,type=Warning" -o 'jsonpath={.items[0].message}' |
		sed 's/kube-api-access-[a-z0-9]*/kube-api-access/; s#/var/lib/.*/token#.../token#; s/.*OCI runtime/OCI runtime/' | grep .
}

# The controls, without the two lines.

control_plain() {
	say "plain: control, without the two lines"
	import_images pause tools
	see 'control: image of 20000' '*lchown *home/app: invalid argument*' in_node ctr -n k8s.io images import /images/owned.tar
	in_node timeout $((60 * TIME_FACTOR)) kubeadm init --config /etc/kubeadm.yaml --skip-phases=preflight >"$work/kubeadm.log" 2>&1 &
	await 60 "error of a sandbox" no_sandbox
	see 'control: sandboxes' '*unable to setup user: setgroups: invalid argument' no_sandbox
	see 'control: containers that run' '' in_node crictl ps -q
	in_node pkill -x kubeadm || :
	wait $! && die "kubeadm init succeeded without the two lines" || :
}

no_sandbox() {
	in_node journalctl --no-pager -o cat -u kubelet | grep -o 'OCI runtime create failed: [a-zA-Z/: -]*' | head -n 1 | grep .
}

control_planned() {
	say "planned: control, without the two lines"
	find_pool
	see 'control: image of 20000' '*lchown *home/app: invalid argument*' in_node ctr -n k8s.io images import /images/owned.tar
	for pod in user-20001 user-1000660000 groups-merge groups-strict ping host-network host-pid privileged host-users; do
		await 60 "error of $pod" trouble_of "$pod"
		see "control: $pod" 'MountVolume.SetUp failed for volume "kube-api-access" : lchown .../token: invalid argument' trouble_of "$pod"
	done
	await 60 "error of db-0" trouble_of db-0
	see 'control: db-0' '*unable to setup user: setgroups: invalid argument*' trouble_of db-0
	await 60 "error of shared" trouble_of shared
	see 'control: shared' '*unable to setup user: chown /dev/stdout: invalid argument*' trouble_of shared
	see 'control: Deployment, Job' '' k get deployment/web job/job -o 'jsonpath={.items[*].status.readyReplicas}{.items[*].status.succeeded}'
	see 'control: pods that run' 'debian debian-asked net-admin shared' running
	see 'control: apt-get update' 'exit 0' inside debian "$apt"
	see 'control: chown in a pod' '*Invalid argument*' inside net-admin ': >/tmp/f && chown 23456 /tmp/f'
	check_alone
	check_unit
	see 'control: podman stop' 'within*' stop_node 40
}

# The plugin alone, put into the volume of a node that runs: it gives a container its user, but the sandbox of a pod with an
# unmapped user, and its token, it cannot reach.
check_alone() {
	in_node mkdir -p /opt/nri/plugins
	as_user podman cp "$work/bin/uid-nri-plugin" "$node:/opt/nri/plugins/00-uid-mapper"
	in_node systemctl restart containerd
	await 30 "containerd after its restart" in_node ctr version
	alone alone-container false '{}' '{runAsUser: 20030, runAsGroup: 20030}'
	alone alone-token true '{}' '{runAsUser: 20030, runAsGroup: 20030}'
	alone alone-sandbox false '{runAsUser: 20030}' '{}'
	await 30 "pod alone-container" inside alone-container true
	see "plugin alone: a container's user" '20030 20030 20030' inside alone-container "$whoami"
	await 30 "error of alone-token" trouble_of alone-token
	see 'plugin alone: the same with a token' 'MountVolume.SetUp failed *lchown .../token: invalid argument' trouble_of alone-token
	await 30 "error of alone-sandbox" trouble_of alone-sandbox
	see "plugin alone: a pod's user" '*cannot setuid to unmapped uid 20030 in user namespace' trouble_of alone-sandbox
	k delete pod alone-container alone-token alone-sandbox >/dev/null
	in_node rm /opt/nri/plugins/00-uid-mapper
	in_node systemctl restart containerd
	await 30 "containerd after its restart" in_node ctr version
}

# alone NAME TOKEN OF-THE-POD OF-THE-CONTAINER: a pod with these security contexts.
alone() {
	as_user podman exec -i "$node" kubectl apply -f - >/dev/null <<-POD
		{apiVersion: v1, kind: Pod, metadata: {name: $1},
		 spec: {automountServiceAccountToken: $2, securityContext: $3, terminationGracePeriodSeconds: 1,
		 containers: [{name: c, image: "localhost/tools:test", securityContext: $4}]}}
	POD
}

running() {
	k get pods --field-selector status.phase=Running -o 'jsonpath={range .items[*]}{.metadata.name}{" "}{end}'
}

# A node whose entrypoint cannot be changed: supervise in a unit of systemd, with the default KillMode. It stops at once,
# and what has left the unit's cgroup is served on.
check_unit() {
	as_user podman cp "$work/bin/uid-nri-plugin" "$node:/usr/local/bin/uid-nri-plugin"
	see 'control: check' '*problem kubelet *not under supervise: pods with an unmapped runAsUser and a service account token do not start*' \
		in_node sh -c 'uid-nri-plugin check | grep -A 2 "^problem *kubelet"'
	as_user podman exec -i "$node" sh -c 'mkdir -p /sys/fs/cgroup/left && cat >/tmp/command' <<-'COMMAND'
		sh -c 'sleep 4; : >/tmp/late; chown 23456 /tmp/late' &
		echo $! >/sys/fs/cgroup/left/cgroup.procs
		exec perl -MSocket -e 'socket(S, AF_UNIX, SOCK_DGRAM, 0) and send(S, "READY=1", 0, sockaddr_un($ENV{NOTIFY_SOCKET}))
			and exec "sleep", "1000000"'
	COMMAND
	as_user podman exec -i "$node" sh -c 'mkdir -p /run/systemd/system && cat >/run/systemd/system/folded.service' <<-'UNIT'
		[Service]
		Type=notify
		NotifyAccess=main
		TimeoutStartSec=10
		ExecStart=uid-nri-plugin supervise -- sh /tmp/command
	UNIT
	in_node systemctl daemon-reload
	see 'a unit: starts, by its own sd_notify' 'active' in_node sh -c 'systemctl start folded && systemctl is-active folded'
	see 'a unit: seconds to stop' '[01]' in_node sh -c 's=$(date +%s); systemctl stop folded; echo $(($(date +%s) - s))'
	see 'a unit: its state' 'inactive' in_node systemctl is-active folded
	see 'a unit: what left its cgroup' "$(place 23456)" in_node sh -c 'sleep 5; stat -c %u /tmp/late'
	see 'a unit: the server has gone' '' in_node pgrep -x uid-supervise
	in_node rm /usr/local/bin/uid-nri-plugin
}

# The named volumes hide what a new image has in /opt, /etc and /var, but not the two lines.
check_volumes() {
	see 'over old volumes' '/usr/local/bin/uid-nri-plugin supervised' in_node sh -c '
		ls /usr/local/bin/uid-nri-plugin /opt/nri/plugins/* 2>/dev/null; pgrep -x uid-supervise >/dev/null && echo supervised'
}

# The cases.

whoami='echo $(id -u) $(id -g) $(id -G | tr " " "\n" | sort -n)'
token=/var/run/secrets/kubernetes.io/serviceaccount/token

apt='mkdir -p /srv/repository && cd /srv/repository && : >Packages &&
	rm -rf /etc/apt/sources.list* /var/lib/apt/lists/* && echo "deb [trusted=yes] file:/srv/repository ./" >/etc/apt/sources.list &&
	apt-get update >/tmp/apt 2>&1; echo "exit $?"; grep ^E: /tmp/apt || :'

sshd='set -e; mkdir -p /run/sshd /root/.ssh; chmod 700 /root/.ssh
	[ -e /root/k ] || { ssh-keygen -q -t ed25519 -N "" -f /root/k; ssh-keygen -A >/dev/null; }
	cp /root/k.pub /root/.ssh/authorized_keys; /usr/sbin/sshd -p 2222 -E /tmp/sshd.log -o PidFile=none
	ssh -p 2222 -i /root/k -o StrictHostKeyChecking=no -o LogLevel=ERROR localhost "echo in as \$(id -u)" || cat /tmp/sshd.log'

check_identity() {
	see 'runAsUser 20001' '20001 20001 20001' inside user-20001 "$whoami"
	see 'its token' '20001:0:600 readable' inside user-20001 "stat -L -c %u:%g:%a $token; cat $token >/dev/null && echo readable"
	see 'runAsUser, fsGroup 1000660000' '1000660000 0 0 1000660000' inside user-1000660000 "$whoami"
	see 'its token' '1000660000:1000660000:640 readable' \
		inside user-1000660000 "stat -L -c %u:%g:%a $token; cat $token >/dev/null && echo readable"
	see 'supplementalGroups Merge' '20006 20006 20006 40001 40002 40003' inside groups-merge "$whoami"
	see 'supplementalGroups Strict' '20006 20006 20006 40001 40002' inside groups-strict "$whoami"
	# kubelet hands on the user of "USER 20000:20000" alone, so the group is 0, and 20000 is no group of the container's.
	see 'image of 20000: the user' '20000 0 0' inside owned "$whoami"
	see 'image of 20000: its files' "20000:$(place 20000):700 20000:$(place 20000):600 home/app/file" \
		inside owned 'cd /home/app; stat -c %u:%g:%a . file; cat file'
	see 'image of 20000: another file' "65532:$(place 1000660000)" inside owned 'stat -c %u:%g /data/other'
	see 'image of 20000: a new file' '20000:0' inside owned 'cd /home/app; : >new; chown 20000:0 new; stat -c %u:%g new'
}

check_workloads() {
	await 60 "Deployment" replaced
	web=$(k get pod -l app=web -o 'jsonpath={.items[0].metadata.name}')
	see 'Deployment: ready by its probes' '2' k get deployment web -o 'jsonpath={.status.readyReplicas}'
	see 'Deployment: hook, no capability' '20002 20002 0 0000000000000000 2' inside "$web" \
		'cat /tmp/post-start; id -u; id -g; sed -n "s/^Cap[BE][nf][df]:\t//p" /proc/self/status | sort -u; sed -n "s/^Seccomp:\t//p" /proc/self/status'
	k delete pod "$web" >/dev/null
	see 'Deployment: preStop hook' '' k get events --field-selector reason=FailedPreStopHook -o name
	await 60 "pod in place of the deleted one" replaced
	see 'StatefulSet: user, fsGroup' '20003 20003 20003 30001' inside db-0/c "$whoami"
	see 'StatefulSet: sidecar' '20005 20003 20003 30001' inside db-0/sidecar "$whoami"
	see 'StatefulSet: emptyDir, init' '0:30001:2777 20003:30001 from-init' \
		inside db-0/c 'stat -c %u:%g:%a /empty; stat -c %u:%g /empty/init; cat /empty/init'
	see "StatefulSet: the sidecar's file" "$(place 20005):30001 20005" inside db-0/c 'stat -c %u:%g /empty/sidecar; cat /empty/sidecar'
	see 'StatefulSet: the same to itself' '20005:30001' inside db-0/sidecar 'stat -c %u:%g /empty/sidecar'
	see 'StatefulSet: hostPath, subPath' '20003:20003 20003:20003 part' \
		inside db-0/c 'stat -c %u:%g /host/part /part/file; cat /part/file'
	see 'hostPath as the node sees it' "$(place 20003):$(place 20003)" in_node stat -c %u:%g /var/lib/test-data/part/file
	see 'StatefulSet: configmap' '0:30001:644 from-the-configmap' inside db-0/c 'stat -L -c %u:%g:%a /settings/key; cat /settings/key'
	see 'StatefulSet: secret' '0:30001:440 from-the-secret' inside db-0/c 'stat -L -c %u:%g:%a /secret/key; cat /secret/key'
	see 'StatefulSet: projected' '0:30001:640 from-the-configmap eyJ' \
		inside db-0/c 'stat -L -c %u:%g:%a /token/token; cat /token/key; echo; head -c 3 /token/token'
	see 'Job' '1' k get job job -o 'jsonpath={.status.succeeded}'
}

replaced() {
	[ "$(k get deployment web -o 'jsonpath={.status.readyReplicas}')" = 2 ]
}

received='2>&1 | grep -o -e "1 received" -e "1 packets received" -e "ping: .*"'

check_programs() {
	if has 65534; then
		see 'apt-get update' 'exit 0' inside debian "$apt"
		see 'sshd, a login' 'in as 0' inside debian "$sshd"
	else
		see 'apt-get update' 'exit 100 *Could not switch group*' inside debian "$apt"
		see 'sshd, a login' '*permanently_set_uid: egid incorrect*' inside debian "$sshd"
	fi
	see 'apt-get update, inject=always' 'exit 0' inside debian-asked "$apt"
	see 'sshd, a login, inject=always' 'in as 0' inside debian-asked "$sshd"
	# busybox 1.35 asks for a raw socket only, so ping_group_range is nothing to it: it needs NET_RAW, which a user has in no
	# cluster, and root not in a namespace of its own.
	see 'ping, iputils: a user' '1 received' inside ping "ping -n -c 1 -W 2 10.244.0.1 $received"
	see 'ping, iputils: root, inject=always' '1 received' inside debian-asked "ping -n -c 1 -W 2 10.244.0.1 $received"
	see 'ping, busybox: root' '1 packets received' inside net-admin "ping -c 1 -W 2 10.244.0.1 $received"
	see 'ping, busybox: a user' 'ping: permission denied (are you root?)' inside user-20001 "ping -c 1 -W 2 10.244.0.1 $received"
	see 'ping, busybox: root, inject=always' 'ping: permission denied (are you root?)' \
		inside debian-asked "busybox ping -c 1 -W 2 10.244.0.1 $received"
	see 'cp, there and back' '20007:20007 the file' copy_and_back
}

copy_and_back() {
	in_node sh -c 'echo the file >/tmp/copied && kubectl cp /tmp/copied ping:/tmp/copied && rm /tmp/copied' >/dev/null
	inside ping 'stat -c %u:%g /tmp/copied'
	in_node sh -c 'kubectl cp ping:/tmp/copied /tmp/copied >/dev/null 2>&1 && cat /tmp/copied'
}

# kubelet hands out ranges of 65536 ids of the node, which no node of a user has. So the kernel refuses the map that
# containerd makes for the sandbox. Nobody can mend that from below.
no_user_namespace='failed to start noop process for unshare: fork/exec /proc/self/exe: operation not permitted'

check_namespaces() {
	see 'shareProcessNamespace' "20009 3 $(place 20010)" inside shared/a \
		"id -u; grep -lx sleep /proc/[0-9]*/comm | wc -l; stat -c %u /proc/[0-9]* | grep -x $(place 20010) | sort -u"
	see 'hostNetwork, folded' "$(place 20011) 0" inside host-network 'id -u; id -g'
	see 'hostPID' '20012 systemd' inside host-pid 'id -u; cat /proc/1/comm'
	see 'privileged, folded' "$(place 20013) 0" inside privileged 'id -u; id -g'
	see 'NET_ADMIN' '0 10.9.9.9/32' inside net-admin \
		'id -u; ip addr add 10.9.9.9/32 dev eth0; ip addr show dev eth0 | grep -o 10.9.9.9/32'
	see 'hostUsers false' "*$no_user_namespace" last_trouble_of host-users
	k debug user-20001 --image=localhost/tools:test --target=c --container=dbg -q >/dev/null 2>&1 || :
	see 'debug --target' '20001 sh 20001' debugged
}

last_trouble_of() {
	k get events --sort-by=.lastTimestamp --field-selector "involvedObject.name=$1,type=Warning" -o 'jsonpath={.items[-1:].message}'
}

debugged() {
	await 30 "ephemeral container" inside user-20001/dbg true
	inside user-20001/dbg 'id -u; cat /proc/1/comm; stat -c %u /proc/1'
}

fetch_web='timeout 10 busybox wget -qO- http://web'

check_network() {
	await 30 "Service" inside user-20001 "$fetch_web"
	see 'Service by its name' '20002' inside user-20001 "$fetch_web"
	see 'DNS' '*web.default.svc.cluster.local Address: 10.96.*' inside user-20001 'busybox nslookup web.default.svc.cluster.local'
	see 'the Service from hostNetwork' '20002' inside host-network \
		"timeout 10 busybox wget -qO- http://$(k get service web -o 'jsonpath={.spec.clusterIP}')"
}

# How often containers were started again, in all.
restarts() {
	k get pods -o 'jsonpath={.items[*].status.containerStatuses[*].restartCount}' | tr ' ' '\n' | awk '{ n += $1 } END { print n + 0 }'
}

# new_pod NAME ID: a pod is made, and says who it is.
new_pod() {
	k run "$1" --image=localhost/tools:test --restart=Never \
		--overrides="{\"spec\":{\"securityContext\":{\"runAsUser\":$2,\"runAsGroup\":$2},\"terminationGracePeriodSeconds\":1}}" >/dev/null
	await 60 "pod $1" inside "$1" true
	inside "$1" "$whoami; test -r $token && echo token"
	k delete pod "$1" --wait=false >/dev/null
}

plugin_process() {
	in_node pgrep -o -f '^00-uid-mapper'
}

server_process() {
	in_node pgrep -o -x uid-supervise
}

# kill_one WHICH: kills it, and waits until another is in its place.
kill_one() {
	killed=$("$1_process") || die "no $1 runs in the node"
	in_node kill -KILL "$killed"
	await 5 "$1 in place of the killed one" another "$1"
}

another() {
	found=$("$1_process") && [ "$found" != "$killed" ]
}

check_restarts() {
	before=$(restarts)
	in_node systemctl restart containerd
	await 30 "containerd after its restart" in_node ctr version
	see 'containerd restarted: a pod' '20021 20021 20021 token' new_pod after-containerd 20021
	in_node systemctl restart kubelet
	see 'kubelet restarted: a pod' '20022 20022 20022 token' new_pod after-kubelet 20022
	kill_one plugin
	see 'plugin killed: a pod' '20023 20023 20023 token' new_pod after-plugin 20023
	kill_one server
	see 'server killed: a pod' '20024 20024 20024 token' new_pod after-server 20024
	see 'server killed: chown in a pod' "$(place 23456)" inside net-admin ': >/tmp/f && chown 23456 /tmp/f && stat -c %u /tmp/f'
	see 'pods restarted by all that' '0' echo $(($(restarts) - before))
	see 'they still run' '20001 20001 20001' inside user-20001 "$whoami"
}

# stop_node SECONDS: says whether the node has stopped within them. One that does not, Podman kills after 60.
stop_node() {
	stop_start=$(date +%s%N)
	as_user podman stop -t 60 "$node" >/dev/null 2>&1 || die "podman stop failed"
	stop_took=$((($(date +%s%N) - stop_start) / 1000000))
	if [ "$stop_took" -lt "$1"000 ]; then
		echo "within $1 s: $stop_took ms"
	else
		echo "too long: $stop_took ms"
	fi
}

start_again() {
	as_user podman start "$node" >/dev/null 2>&1 || die "podman start failed"
	booted
}

check_stop() {
	see 'podman stop' 'within*' stop_node 40
	start_again
	await 120 "API server after the node's start" k get --raw /readyz
	await 120 "pods after the node's start" inside user-20001 true
	pods_ready
	see 'node started again: a user' '20001 20001 20001' inside user-20001 "$whoami"
	see 'node started again: its token' '20001:0:600' inside user-20001 "stat -L -c %u:%g:%a $token"
	await 60 "Service after the node's start" inside user-20001 "$fetch_web"
	see 'node started again: the Service' '20002' inside user-20001 "$fetch_web"
}

# The tools' and the plugin's own words.
check_messages() {
	see 'check: problems' '' in_node sh -c 'uid-nri-plugin check | grep ^problem'
	see 'check: containerd, kubelet' 'ok containerd *under supervise* ok kubelet *under supervise' \
		in_node sh -c 'uid-nri-plugin check | grep -A 1 -e "^[a-z]* *containerd " -e "^[a-z]* *kubelet " | grep -v "^ok *plugin"'
	see 'check: the plugin' 'ok plugin*' in_node sh -c 'uid-nri-plugin check | grep "^[a-z]* *plugin "'
	see 'podman logs, before the journal' '*info: waiting for /var/run/nri/nri.sock*' as_user podman logs "$node"
	see 'journal: the plugin' "version *; pool $pool" in_node sh -c 'journalctl --no-pager -o cat -t uid-nri-plugin | grep -m 1 "^version" | cut -d ";" -f 1-4'
	see 'journal: errors' '' in_node journalctl --no-pager -o cat -t uid-nri-plugin -p err
}

check_all() {
	find_pool
	say "$node: cases (the node's pool is $pool)"
	check_identity
	check_workloads
	check_programs
	check_namespaces
	check_network
	check_restarts
	check_messages
	check_stop
}
