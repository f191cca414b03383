// Names that others chose do no harm where people read them.
#include "runtime/printable.h"

#include <gtest/gtest.h>

namespace betterbox {
namespace {

TEST(Printable, LeavesWhatIsVisible) {
  for (const char* name :
       {"", "energy", "a b-c/d.e", "Gr\xC3\xBC\xC3\x9F", "\xE6\x97\xA5\xE6\x9C\xAC", "\xF0\x9F\x90\x8D"})
    EXPECT_EQ(printable(name), name);
}

TEST(Printable, ShowsWhatMovesATerminalsCursorOrForgesLines) {
  EXPECT_EQ(printable("\x1b[2Kx\nrow\r\t\x07\x7f"), "\\x1b[2Kx\\nrow\\r\\t\\x07\\x7f");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m"),
            "\\x9b31m");  // CSI in one character
  EXPECT_EQ(printable("\xE2\x80\xAE"
                      "exe.txt"),
            "\\u202eexe.txt");  // right to left
  EXPECT_EQ(printable("a\xE2\x80\x8B"
                      "b\xEF\xBB\xBF"),
            "a\\u200bb\\ufeff");  // no width
  EXPECT_EQ(printable("\xE2\x80\xA8"), "\\u2028");
  EXPECT_EQ(printable("\xF3\xA0\x80\x81"), "\\U000e0001");  // a tag
}

TEST(Printable, ShowsBytesThatAreNoText) {
  EXPECT_EQ(printable("\xFF\xC0\xAF"), "\\xff\\xc0\\xaf");
  EXPECT_EQ(printable("\xE2\x82"), "\\xe2\\x82");           // it ends early
  EXPECT_EQ(printable("\xED\xA0\x80"), "\\xed\\xa0\\x80");  // half a character of UTF-16
  EXPECT_EQ(printable("\xF4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
}

TEST(Printable, CutsWhatIsTooLong) {
  EXPECT_EQ(printable(std::string(1000, 'x'), 5), "xxxxx...");
  EXPECT_EQ(printable("12345", 5), "12345");
}

}  // namespace
}  // namespace betterbox
