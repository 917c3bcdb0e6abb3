package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lifeboat-dev/lifeboat/checkpointer/bucket"
)

// bucketFlags adds the flags of a bucket to a command. What it returns is called
// when they are parsed: it returns the bucket's configuration, or nil when no
// bucket is asked for.
func bucketFlags(cmd *cobra.Command) func() (*bucket.Config, error) {
	var config bucket.Config
	f := cmd.Flags()
	f.StringVar(&config.Bucket, "bucket", "", "S3 bucket that keeps checkpoints beside the other nodes; credentials come from AWS_ACCESS_KEY_ID and "+
		"AWS_SECRET_ACCESS_KEY, or from the file that AWS_SHARED_CREDENTIALS_FILE names")
	f.StringVar(&config.Endpoint, "bucket-endpoint", "", "host[:port] of the bucket's server")
	f.StringVar(&config.Region, "bucket-region", "", "region of the bucket; when it is empty, the server is asked")
	f.StringVar(&config.Prefix, "bucket-prefix", "", "folder in the bucket; clusters that share a bucket have different ones")
	f.StringVar(&config.CAFile, "bucket-ca-file", "", "PEM file of the authorities that the server's certificate is checked against; when it is empty, the system's")
	f.BoolVar(&config.Insecure, "bucket-insecure", false, "use HTTP without TLS; checkpoints are encrypted all the same")
	return func() (*bucket.Config, error) {
		if config.Bucket == "" {
			var given []string
			for _, name := range []string{"bucket-endpoint", "bucket-region", "bucket-prefix", "bucket-ca-file", "bucket-insecure"} {
				if f.Changed(name) {
					given = append(given, "--"+name)
				}
			}
			if len(given) > 0 {
				return nil, fmt.Errorf("%s without a bucket: name it with --bucket", strings.Join(given, ", "))
			}
			return nil, nil
		}
		switch {
		case config.Endpoint == "":
			return nil, fmt.Errorf("--bucket=%s without its server: name it with --bucket-endpoint", config.Bucket)
		case config.Insecure && config.CAFile != "":
			return nil, errors.New("--bucket-insecure uses no TLS, and --bucket-ca-file is for TLS: leave one of them out")
		}
		return &config, nil
	}
}
