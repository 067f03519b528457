// Command hello is the whole content of a test image: it proves that what was
// pulled also runs.
package main

import "fmt"

func main() { fmt.Println("hello from the other side of the berth") }
