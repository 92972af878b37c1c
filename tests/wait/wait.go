// Package wait has the tests' limits of time.
package wait

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// Scaled is a limit of time on this machine: TIME_FACTOR is how many times slower it is than an ordinary one.
func Scaled(limit time.Duration) time.Duration {
	factor, err := strconv.Atoi(os.Getenv("TIME_FACTOR"))
	if err != nil {
		return limit
	}
	return limit * time.Duration(factor)
}

// For tries until there is no error, and after the limit, which it scales, returns the last one.
func For(limit time.Duration, what string, try func() error) error {
	for end := time.Now().Add(Scaled(limit)); ; time.Sleep(5 * time.Millisecond) {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s, after %v: %w", what, Scaled(limit), err)
		}
	}
}
