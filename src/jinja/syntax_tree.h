#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "value.h"

namespace qlora::jinja {

enum class ExpressionKind : std::uint8_t {
    kConstant,
    kName,
    kList,         // operands: items
    kTuple,        // operands: items
    kDict,         // operands: key, value, key, value, ...
    kAttribute,    // operands: the value; name
    kItem,         // operands: the value, the key
    kSlice,        // operands: the value, start, stop, step; each of these may be null
    kCall,         // operands: the callee, then the arguments
    kFilter,       // operands: the value (null in a filter block), then the arguments; name
    kTest,         // operands: the value, then the arguments; name
    kConditional,  // operands: condition, value if true, value if false (may be null)
    kAnd,
    kOr,
    kNot,
    kNegative,
    kPositive,
    kAdd,
    kSubtract,
    kMultiply,
    kDivide,
    kFloorDivide,
    kModulo,
    kConcatenate,  // operands: all pieces
    kCompare,      // operands: the values; comparisons between them
};

enum class Comparison : std::uint8_t {
    kEqual,
    kNotEqual,
    kLess,
    kLessEqual,
    kGreater,
    kGreaterEqual,
    kIn,
    kNotIn
};

struct Expression {
    ExpressionKind kind;
    int line = 0;
    int depth = 1;  // levels of the tree from here down
    std::string name;
    Value constant;
    std::vector<std::unique_ptr<Expression>> operands;
    std::vector<std::pair<std::string, std::unique_ptr<Expression>>> named;  // arguments name=value
    std::vector<Comparison> comparisons;
};
using ExpressionPtr = std::unique_ptr<Expression>;

enum class StatementKind : std::uint8_t {
    kData,          // text
    kOutput,        // value
    kIf,            // branches
    kFor,           // targets, value, condition (may be null), body, otherwise
    kSet,           // targets, value
    kSetAttribute,  // targets: the namespace; attribute, value
    kSetBlock,      // targets, value: filters or null, body
    kMacro,         // name, parameters, body
    kFilterBlock,   // value: the filters, body
    kGeneration,    // body
    kBreak,
    kContinue,
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Branch {
    ExpressionPtr condition;  // null for else
    Body body;
};

struct MacroParameter {
    std::string name;
    ExpressionPtr otherwise;  // null: undefined
};

struct Statement {
    StatementKind kind;
    int line = 0;
    TextPtr text;
    ExpressionPtr value;
    ExpressionPtr condition;
    std::vector<std::string> targets;
    bool unpacks = false;  // the targets stand for the items of the value
    std::string name;
    TextPtr attribute;
    std::vector<MacroParameter> parameters;
    std::vector<Branch> branches;
    Body body;
    Body otherwise;
    std::vector<std::string> hidden;  // variables of the body that are undefined where it begins
    std::vector<std::string> hidden_otherwise;
};

/// A parsed template.
struct Program {
    std::string name;
    Body body;
    std::vector<std::string> hidden;
    bool has_generation = false;
    std::set<std::string, std::less<>> names;  // all variables that are read
};

}  // namespace qlora::jinja
