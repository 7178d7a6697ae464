mkdir -p module/inner/testdata
cat >module/go.mod <<'END'
module example.org/module

go 1.24
END
cat >module/main.go <<'END'
// comment
package main

import (
	"fmt"

	"example.org/module/inner"
)

func main() { fmt.Println(inner.Greeting()) }
END
cat >module/inner/inner.go <<'END'
// comment
package inner

func Greeting() string { return "hello from inner 1" }
END
cat >module/inner/inner_test.go <<'END'
// comment
package inner

import (
	"os"
	"testing"
)

func TestInput(t *testing.T) {
	if _, err := os.ReadFile("testdata/input"); err != nil {
		t.Fatal(err)
	}
}
END
echo input >module/inner/testdata/input
# go test does not trust what is younger than two seconds.
touch -d @1000000000 module/inner/testdata/input module/inner/testdata module/inner
