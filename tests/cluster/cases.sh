# shellcheck shell=sh disable=SC2154 # what is not set here is set by cluster.sh
# The nodes of tests/cluster.sh, which reads this inside its namespaces. What is looked at in them is in checks.sh.

# start_node NAME IMAGE FLAG...: as Usernetes' compose file does: named volumes, a private /run and /tmp, privileged.
start_node() {
	node=$1 image=$2
	shift 2
	as_user podman run -d --name "$node" --hostname "$node" --privileged --cgroup-parent "/${base##*/}/user" \
		--network slirp4netns --sysctl net.ipv4.ip_forward=1 --tmpfs /run:exec --tmpfs /tmp \
		-v "$node-var:/var" -v "$node-opt:/opt" -v "$node-etc:/etc" -v "$work/images:/images:ro" \
		"$@" "$image" >"$work/log" 2>&1 || die "the node did not start: $(tail -n 5 "$work/log")"
	booted
}

# Waits until the node's containerd answers.
booted() {
	await 60 "containerd in the node" in_node ctr version
}

in_node() {
	as_user podman exec "$node" "$@"
}

# await SECONDS WHAT COMMAND...: longer on a slow machine.
await() {
	await_end=$(($(date +%s) + $1 * TIME_FACTOR)) await_what=$2
	shift 2
	until "$@" >"$work/await" 2>&1; do
		if [ "$(date +%s)" -ge "$await_end" ]; then
			tail -n 20 "$work/await" >&2
			trouble
			die "no $await_what"
		fi
		sleep 0.5
	done
}

# What one wants to see when a cluster does not come up.
trouble() {
	{
		in_node systemctl --failed --no-pager
		in_node journalctl --no-pager -n 30
		in_node crictl ps -a
		in_node kubectl get pods -A -o wide
		in_node kubectl get events -A --sort-by=.lastTimestamp
	} >&2 2>/dev/null || :
}

import_images() {
	say "$node: images"
	[ $# != 0 ] || set -- pause tools owned control-plane programs
	for name in "$@"; do
		in_node ctr -n k8s.io images import "/images/$name.tar" >"$work/log" 2>&1 || {
			cat "$work/log" >&2
			return 1
		}
	done
	case " $* " in
	*' control-plane '*)
		for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
			in_node ctr -n k8s.io images tag localhost/control-plane:test "localhost/k8s/$name:$(kubernetes_version)" >/dev/null
		done
		for name in etcd coredns; do
			in_node ctr -n k8s.io images tag localhost/control-plane:test "localhost/k8s/$name:test" >/dev/null
		done
		;;
	esac
}

make_cluster() {
	say "$node: kubeadm init"
	in_node mkdir -p -m 777 /var/lib/test-data
	in_node chmod 1777 /var/lib/test-data
	in_node kubeadm init --config /etc/kubeadm.yaml --ignore-preflight-errors=all >"$work/kubeadm.log" 2>&1 || {
		tail -n 30 "$work/kubeadm.log" >&2
		trouble
		die "kubeadm init failed"
	}
	# CoreDNS is started by its image's entrypoint elsewhere.
	in_node kubectl -n kube-system patch deployment coredns --type=json -p '[
		{"op": "add", "path": "/spec/template/spec/containers/0/command", "value": ["/coredns"]},
		{"op": "replace", "path": "/spec/replicas", "value": 1}]' >/dev/null
	await 60 "service account" in_node kubectl get serviceaccount default
}

# The node's container is made anew, of another image, as "compose up --build" does: the volumes stay.
replace_node() {
	as_user podman rm -f -t 10 "$node" >/dev/null 2>&1 || die "the node could not be removed"
	start_node "$@"
}

# The map that Podman gives when it is not asked. The control: without the two lines not one sandbox starts.
plain() {
	start_node plain localhost/node
	control_plain
	in_node kubeadm reset --force >/dev/null 2>&1
	say "plain: the node of the rebuilt image, over the old volumes"
	replace_node plain localhost/node-with-plugin
	check_volumes
	see 'podman stop without pods' 'within*' stop_node 5
	start_again
	import_images
	make_cluster
	apply_pods
	pods_ready
	check_all
}

# The map that plan gives. The control: a cluster comes up, and single pods fail.
planned() {
	map=$(as_user uid-nri-plugin plan --podman)
	say "planned: $map"
	# shellcheck disable=SC2086 # one word an option
	start_node planned localhost/node $map
	import_images pause tools control-plane programs
	make_cluster
	apply_pods
	control_planned
	say "planned: the node of the rebuilt image, over the old volumes"
	# shellcheck disable=SC2086
	replace_node planned localhost/node-with-plugin $map
	import_images owned
	await 120 "API server in the rebuilt node" k get --raw /readyz
	pods_ready
	see 'a pod that waited for this' '20001 20001 20001' inside user-20001 "$whoami"
	# Volumes whose group kubelet could not set then, it does not set later: it takes a new pod.
	see 'an emptyDir of before, fsGroup' '0:0:2777' inside db-0/c 'stat -c %u:%g:%a /empty'
	k delete pod db-0 >/dev/null
	pods_ready
	check_all
}

# end_node: with its volumes; its processes must be gone.
end_node() {
	as_user podman rm -f -t 10 -v "$node" >/dev/null 2>&1 || die "the node $node could not be removed"
	as_user podman volume rm "$node-var" "$node-opt" "$node-etc" >/dev/null 2>&1 || die "the node's volumes could not be removed"
}
