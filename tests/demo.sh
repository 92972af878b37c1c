#!/bin/sh
# Shows, in a node of 2048 ids, a pod that cannot start, and the same pod starting after one file was copied.
# Needs root and Debian; installs and builds what is missing. Exits 0 only if both were seen.
set -eu

bold='' blue='' normal=''
if [ -t 1 ]; then
	bold=$(printf '\033[1m') blue=$(printf '\033[36m') normal=$(printf '\033[0m')
fi

step() {
	printf '\n%s== %s%s\n' "$bold" "$*" "$normal"
}

# Shows a command as a user would type it.
prompt() {
	printf '%s# %s%s\n' "$blue" "$*" "$normal"
}

# Shows a command, then runs it.
show() {
	prompt "$@"
	"$@"
}

wrong() {
	printf '\nNOT as it should be: %s\n' "$*" >&2
	exit 1
}

# What happens in the node, as its root; cmd/lab runs it there.
in_node() {
	cd /root
	mkdir -p /var/lib/data
	chmod 1777 /var/lib/data
	cat >pod.json <<-'JSON'
		{"metadata": {"name": "web", "namespace": "default", "uid": "1"},
		 "log_directory": "/var/log/pods/web",
		 "linux": {"cgroup_parent": "/pods",
		           "security_context": {"namespace_options": {"pid": 1}}}}
	JSON
	cat >web.json <<-'JSON'
		{"metadata": {"name": "web"},
		 "image": {"image": "localhost/tools:test"},
		 "command": ["sleep", "1000"],
		 "mounts": [{"host_path": "/var/lib/data", "container_path": "/data"}],
		 "linux": {"security_context": {"run_as_user": {"value": 10001},
		                                "namespace_options": {"pid": 1}}}}
	JSON

	step "A node whose user has 2048 ids, mapped with care"
	show containerd --version
	show cat /proc/self/uid_map

	step "A pod that runs as user 10001, without the plugin"
	show cat web.json
	pod=$(crictl runp pod.json)
	web=$(crictl create "$pod" web.json pod.json)
	prompt crictl start web
	if crictl start "$web" 2>error; then
		wrong "the pod started without the plugin"
	fi
	error=$(sed -n 's/.*level=fatal msg="\(.*\)"$/\1/p' error | sed "s/$web/web/g; s/\\\\\"/\"/g")
	echo "$error" | fold -s -w 78
	case $error in
	*'unable to setup user: chown /dev/stdout: invalid argument'*) ;;
	*) wrong "that is not the error of an id that the node does not map" ;;
	esac
	crictl rmp -f "$pod" >/dev/null

	step "One file copied, containerd restarted"
	mkdir -p /opt/nri/plugins
	show cp uid-nri-plugin /opt/nri/plugins/00-uid-mapper
	prompt restart containerd
	restart_containerd

	step "The same pod again"
	pod=$(crictl runp pod.json)
	web=$(crictl create "$pod" web.json pod.json) || wrong "the container was not created"
	prompt crictl start web
	crictl start "$web" >/dev/null || wrong "the container did not start"
	in_web id
	case $(crictl exec -s "$web" id) in
	uid=10001\ *) ;;
	*) wrong "it does not run as 10001" ;;
	esac
	in_web touch /data/mine
	in_web ls -ln /data
	[ "$(crictl exec -s "$web" stat -c %u /data/mine)" = 10001 ] || wrong "its file is not its own"
	in_web cat /proc/self/uid_map

	step "Seen from the node"
	show ls -ln /var/lib/data
	# 1000 + 10001 % 1044
	[ "$(stat -c %u /var/lib/data/mine)" = 1605 ] || wrong "the file is not where the rule puts 10001"
	annotation=uid-mapper.noderesource.dev/uid-mappings
	prompt "jq -r '.annotations[\"$annotation\"]' \\"
	prompt "      config.json | jq -c '.[]'"
	config=/run/containerd/io.containerd.runtime.v2.task/k8s.io/$web/config.json
	jq -r --arg key "$annotation" '.annotations[$key]' "$config" | jq -c '.[]' ||
		wrong "no annotation in the container's config.json"
	jq -e --arg key "$annotation" '.annotations[$key] | fromjson | any(.containerID == 10001 and .hostID == 1605)' "$config" >/dev/null ||
		wrong "the annotation does not say where 10001 is"

	printf '\nAs it should be: 10001 fails without the plugin, and works with it.\n'
}

# Runs a command in the container, and shows it as kubectl would be called.
in_web() {
	prompt "crictl exec web $*"
	out=$(crictl exec -s "$web" "$@") || wrong "that failed"
	[ -z "$out" ] || printf '%s\n' "$out"
}

# The node has no systemd.
restart_containerd() {
	old=$(cat /run/containerd.lab-pid)
	kill "$old"
	while kill -0 "$old" 2>/dev/null; do sleep 0.1; done
	containerd >>/var/log/containerd.log 2>&1 &
	echo $! >/run/containerd.lab-pid
	tries=0
	until [ "$(crictl info 2>/dev/null | jq '[.status.conditions[] | select(.status and (.type == "RuntimeReady" or .type == "NetworkReady"))] | length')" = 2 ]; do
		tries=$((tries + 1))
		[ $tries -lt 100 ] || wrong "containerd did not come back"
		sleep 0.1
	done
}

if [ "${1:-}" = in-node ]; then
	in_node
	exit
fi

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
need_lab
need_go
need_rust "$target"
build_plugin
build_peers
say "starting a node"
lab=$(go_tool lab ./e2e/cmd/lab)
"$lab" -copy "$plugin=/root/uid-nri-plugin" -copy "$root/tests/demo.sh=/root/demo.sh" sh /root/demo.sh in-node
