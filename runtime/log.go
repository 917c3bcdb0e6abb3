package runtime

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// logger appends to the log file of a call, in the format that runc was told to
// use, so that the container runtime keeps both together.
type logger struct {
	file string
	json bool
}

func (l logger) info(format string, args ...any) { l.write("info", format, args...) }
func (l logger) warn(format string, args ...any) { l.write("warning", format, args...) }

func (l logger) write(level, format string, args ...any) {
	if l.file == "" {
		return
	}
	file, err := os.OpenFile(l.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return // there is nobody left to tell
	}
	defer file.Close()
	now, message := time.Now().Format(time.RFC3339), "lifeboat: "+fmt.Sprintf(format, args...)
	if !l.json {
		fmt.Fprintf(file, "time=%q level=%s msg=%q\n", now, level, message)
		return
	}
	line, err := json.Marshal(map[string]string{"level": level, "msg": message, "time": now})
	if err == nil {
		fmt.Fprintf(file, "%s\n", line)
	}
}
