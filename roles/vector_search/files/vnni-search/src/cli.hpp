// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
//
// Command lines: --name value pairs, checked.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "util.hpp"

namespace vnni {

class Arguments {
 public:
    // options: the names known, those that end in '!' are flags without a value. Throws Error on anything else.
    Arguments(int argc, char** argv, int first, const std::vector<std::string>& options);
    bool flag(const std::string& name) const { return values_.count(name); }
    std::string text(const std::string& name, const std::string& fallback = "") const;
    std::string required(const std::string& name) const;
    double number(const std::string& name, double fallback, double least, double most) const;
    uint64_t integer(const std::string& name, uint64_t fallback, uint64_t least, uint64_t most) const;

 private:
    std::map<std::string, std::string> values_;
};

int serve_main(int argc, char** argv);  // serve.cpp
int bench_main(int argc, char** argv);  // bench.cpp
extern const char* const kBenchHelp;

}  // namespace vnni
