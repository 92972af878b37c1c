// Package nri tests the plugin from the runtime's side, by the NRI library that
// containerd has inside. All tests run as root of a user namespace with 2048 ids.
//
//	UID_NRI_PLUGIN=/path/to/uid-nri-plugin go test -count=1 .
//	... go test -count=1 -modfile=nri-0.12.0.mod -tags nri0120 .
//	... go test -count=1 -modfile=nri-0.11.mod -tags nri011 .
//	... go test -count=1 -modfile=nri-0.8.mod -tags nri08 .
//
// The tests of the wire itself and the long ones run with the newest library only.
package nri
