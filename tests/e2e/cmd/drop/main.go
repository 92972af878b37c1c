// Command drop gives up root in a program of many threads, as gosu and sshd do, and shows what is left of it.
//
//	drop UID GID [GROUP...]
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

const threads = 24

func main() {
	var ids []int
	for _, word := range os.Args[1:] {
		id, err := strconv.Atoi(word)
		check("arguments", err)
		ids = append(ids, id)
	}
	if len(ids) < 2 {
		check("arguments", errors.New("want UID GID [GROUP...]"))
	}
	// Threads that stay, half of them in a system call.
	var started sync.WaitGroup
	hold := make(chan bool)
	for i := range threads {
		started.Add(1)
		go func() {
			runtime.LockOSThread()
			started.Done()
			if i%2 == 0 {
				<-hold
			}
			var nothing [2]int
			syscall.Pipe(nothing[:])
			syscall.Read(nothing[0], make([]byte, 1))
		}()
	}
	started.Wait()
	check("setgroups", syscall.Setgroups(ids[2:]))
	check("setgid", syscall.Setgid(ids[1]))
	check("setuid", syscall.Setuid(ids[0]))

	seen := map[string]int{}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	check("threads", err)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		check("threads", err)
		var lines []string
		for line := range strings.Lines(string(text)) {
			for _, name := range []string{"Uid:", "Gid:", "Groups:", "CapEff:"} {
				if strings.HasPrefix(line, name) {
					lines = append(lines, strings.Join(strings.Fields(line), " "))
				}
			}
		}
		seen[strings.Join(lines, "; ")]++
	}
	if len(tasks) < threads {
		check("threads", fmt.Errorf("%d only", len(tasks)))
	}
	for what := range seen { // one line, if all threads agree
		fmt.Println(what)
	}
	fmt.Println("setuid(0):", syscall.Setuid(0))
	fmt.Println("setgid(0):", syscall.Setgid(0))
	fmt.Println("setgroups(0):", syscall.Setgroups([]int{0}))
	_, err = os.ReadFile("/run/secret")
	fmt.Println(err)
}

func check(what string, err error) {
	if err != nil {
		fmt.Printf("%s: %v\n", what, err)
		os.Exit(1)
	}
}
