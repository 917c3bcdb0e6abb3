package kubectl

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// TestReference: docs/reference/kubectl.md has a section for each command, with each of
// its flags, and no flag that the command does not have.
func TestReference(t *testing.T) {
	content, err := os.ReadFile("../docs/reference/kubectl.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, part := range strings.Split(string(content), "\n## ")[1:] {
		title, text, _ := strings.Cut(part, "\n")
		for _, command := range strings.Split(title, " and ") {
			sections[command] = text
		}
	}
	streams, _, _, _ := genericiooptions.NewTestIOStreams()
	for _, command := range New(streams).Commands() {
		if command.Name() == "version" {
			continue
		}
		text, found := sections[command.Name()]
		if !found {
			t.Errorf("no section says what %s does", command.Name())
			continue
		}
		command.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(text, "`--"+f.Name+"`") && !kubectls(f.Name) {
				t.Errorf("the section of %s does not have --%s", command.Name(), f.Name)
			}
		})
		for line := range strings.Lines(text) {
			if name, ok := flagOf(line); ok && command.Flags().Lookup(name) == nil {
				t.Errorf("the section of %s has --%s, which the command does not", command.Name(), name)
			}
		}
	}
}

// kubectls are flags that come with -o, as kubectl has them.
func kubectls(name string) bool {
	return name == "template" || name == "allow-missing-template-keys" || name == "show-managed-fields" || name == "help"
}

// flagOf is the flag that a row of a table begins with.
func flagOf(line string) (name string, ok bool) {
	cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
	if !strings.HasPrefix(line, "| `-") {
		return "", false
	}
	_, name, ok = strings.Cut(cell, "`--")
	return strings.TrimSuffix(name, "`"), ok
}

// TestHelp: each command has an example, and one that could be run.
func TestHelp(t *testing.T) {
	streams, _, _, _ := genericiooptions.NewTestIOStreams()
	root := New(streams)
	var walk func(*cobra.Command)
	walk = func(command *cobra.Command) {
		for _, sub := range command.Commands() {
			walk(sub)
		}
		for line := range strings.Lines(command.Example) {
			arguments, isOurs := strings.CutPrefix(strings.TrimSpace(line), "kubectl lifeboat ")
			if !isOurs {
				continue
			}
			arguments, _, _ = strings.Cut(arguments, " | ")
			words := strings.Fields(arguments)
			found, rest, err := root.Find(words)
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			for _, word := range rest {
				if name, isFlag := strings.CutPrefix(word, "--"); isFlag {
					name, _, _ = strings.Cut(name, "=")
					if found.Flag(name) == nil && found.InheritedFlags().Lookup(name) == nil {
						t.Errorf("%s: %s has no --%s", line, found.CommandPath(), name)
					}
				}
			}
		}
	}
	walk(root)
}
