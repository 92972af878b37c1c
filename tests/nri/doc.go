// Package nri tests the plugin from the runtime's side, by the NRI library that containerd has inside: the newest one, or
// an older one that a file of ../peers pins. All tests run as root of a user namespace with 2048 ids.
//
// The tests of the wire itself and the long ones run with the newest library only.
package nri
