// Package marked replaces a part of a document that a command writes, between two
// marks that a reader of the rendered document does not see:
//
//	<!-- rto: begin -->
//	what make bench-rto measured
//	<!-- rto: end -->
package marked

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Write replaces what stands between the marks of a block in a file. The marks
// themselves stay, each on a line of its own.
func Write(file, block, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("write block %q: %w", block, err)
	}
	fresh, err := replace(string(old), block, text)
	if err != nil {
		return fmt.Errorf("write block %q of %s: %w", block, file, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("write block %q: %w", block, err)
	}
	if err := os.WriteFile(file, []byte(fresh), info.Mode().Perm()); err != nil {
		return fmt.Errorf("write block %q: %w", block, err)
	}
	return nil
}

// replace returns a document with another text in a block.
func replace(document, block, text string) (string, error) {
	begin, end := "<!-- "+block+": begin -->\n", "<!-- "+block+": end -->"
	if strings.Count(document, begin) != 1 || strings.Count(document, end) != 1 {
		return "", fmt.Errorf("it needs the lines %q and %q once each", strings.TrimSpace(begin), end)
	}
	before, rest, _ := strings.Cut(document, begin)
	_, after, found := strings.Cut(rest, end)
	if !found {
		return "", errors.New("its end stands before its beginning")
	}
	return before + begin + strings.Trim(text, "\n") + "\n" + end + after, nil
}
