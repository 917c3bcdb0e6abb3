package membership

import (
	"context"
	"log"
	"log/slog"
	"strings"
)

// newLogger gives memberlist a logger that writes to log.
func newLogger(logger *slog.Logger) *log.Logger { return log.New(lines{logger}, "", 0) }

// lines turns memberlist's lines, as "[WARN] memberlist: text", into records.
type lines struct{ log *slog.Logger }

// levels lowers what memberlist says by one step: a lost ping is its everyday
// life, and what matters of it shows in the members' states.
var levels = map[string]slog.Level{
	"[DEBUG]": slog.LevelDebug,
	"[INFO]":  slog.LevelDebug,
	"[WARN]":  slog.LevelInfo,
	"[ERR]":   slog.LevelWarn,
}

func (l lines) Write(line []byte) (int, error) {
	mark, text, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
	level, known := levels[mark]
	if !known {
		level, text = slog.LevelInfo, mark+" "+text
	}
	l.log.Log(context.Background(), level, strings.TrimPrefix(text, "memberlist: "))
	return len(line), nil
}
