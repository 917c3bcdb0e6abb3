package runtime

import (
	"fmt"
	"slices"
	"strings"
)

// arguments are the arguments of one call of an OCI runtime, as far as this
// program must know them.
type arguments struct {
	global  []string // the flags before the command, as they were given
	command string
	id      string
	root    string
	log     string
	json    bool // whether the log's format is JSON
	bundle  string
	pidFile string
	// console and noPivot are for a restore too.
	console string
	noPivot bool
	force   bool // of delete
}

// The flags of runc that are followed by a value, and those that are not.
var (
	globalFlags = flagSet{
		values:   []string{"log", "log-format", "root", "criu", "rootless"},
		switches: []string{"debug", "systemd-cgroup"},
	}
	commandFlags = map[string]flagSet{
		"create": {
			values:   []string{"bundle", "b", "console-socket", "pidfd-socket", "pid-file", "preserve-fds"},
			switches: []string{"no-pivot", "no-new-keyring"},
		},
		"start":  {},
		"delete": {switches: []string{"force", "f"}},
	}
)

type flagSet struct{ values, switches []string }

// parse understands the arguments of a call whose command is create, start or
// delete. It returns an error for every other one, and for what it does not know:
// those are runc's alone.
func parse(args []string) (arguments, error) {
	// runc's defaults.
	a := arguments{root: "/run/runc", bundle: "."}
	rest, err := globalFlags.read(args, a.setGlobal)
	if err != nil {
		return a, err
	}
	a.global = args[:len(args)-len(rest)]
	if len(rest) == 0 {
		return a, fmt.Errorf("no command")
	}
	a.command = rest[0]
	flags, known := commandFlags[a.command]
	if !known {
		return a, fmt.Errorf("command %q is runc's alone", a.command)
	}
	rest, err = flags.read(rest[1:], a.setCommand)
	if err != nil {
		return a, err
	}
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	if len(rest) != 1 {
		return a, fmt.Errorf("%s: one container ID expected, got %q", a.command, rest)
	}
	a.id = rest[0]
	if a.id == "" || strings.ContainsAny(a.id, "/\x00") || a.id == "." || a.id == ".." {
		return a, fmt.Errorf("%q is not a container ID", a.id)
	}
	return a, nil
}

// read consumes flags up to the first argument that is none, and returns the rest.
func (f flagSet) read(args []string, set func(name, value string)) ([]string, error) {
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0] != "--" {
		name := strings.TrimPrefix(strings.TrimPrefix(args[0], "-"), "-")
		name, value, given := strings.Cut(name, "=")
		switch {
		case slices.Contains(f.switches, name):
			if !given {
				value = "true"
			}
			args = args[1:]
		case !slices.Contains(f.values, name):
			return nil, fmt.Errorf("unknown flag %q", args[0])
		case given:
			args = args[1:]
		case len(args) < 2:
			return nil, fmt.Errorf("flag %q has no value", args[0])
		default:
			value, args = args[1], args[2:]
		}
		set(name, value)
	}
	return args, nil
}

func (a *arguments) setGlobal(name, value string) {
	switch name {
	case "root":
		a.root = value
	case "log":
		a.log = value
	case "log-format":
		a.json = value == "json"
	}
}

func (a *arguments) setCommand(name, value string) {
	switch name {
	case "bundle", "b":
		a.bundle = value
	case "pid-file":
		a.pidFile = value
	case "console-socket":
		a.console = value
	case "force", "f":
		a.force = value != "false"
	case "no-pivot":
		a.noPivot = value != "false"
	}
}
