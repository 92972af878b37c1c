//go:build !cluster

// Command coredns is built with the tag cluster and ../coredns.mod.
package main

func main() {}
