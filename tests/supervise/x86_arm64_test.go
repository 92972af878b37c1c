package supervise

import (
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// chownNumber is the call by which the callers give files away: c/caller.h.
const chownNumber = unix.SYS_FCHOWNAT

var answered = regexp.MustCompile(`^(i386:|x32:)?(l?chown|fchown|fchownat|set|read|listen)`)

// playable leaves out the calls of i386 and x32, and their answers.
func playable(steps []string, want string) ([]string, string) {
	var left, wanted []string
	answers := strings.Fields(want)
	for _, s := range steps {
		x86 := strings.HasPrefix(s, "i386:") || strings.HasPrefix(s, "x32:")
		if !x86 {
			left = append(left, s)
		}
		if answered.MatchString(s) && len(answers) > 0 {
			if !x86 {
				wanted = append(wanted, answers[0])
			}
			answers = answers[1:]
		}
	}
	return left, strings.Join(wanted, " ")
}
